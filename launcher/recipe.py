"""The recipe: one YAML file, validated as a whole, that says everything a run does.

Every mistake is reported at once, each with its file and line (or the `--set` it came from), the field, the value, and
for an unknown key the nearest one that exists.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cluster.disclosure import is_secret_name, secret_in_url
from cluster.errors import InputError
from cluster.mistakes import Place, explain, listed, read_yaml, shown
from cluster.settings import ClusterSettings, Settings
from distill.settings import (
    EncoderSettings,
    EvaluationSettings,
    ListSettings,
    RetrievalSettings,
    StudentSettings,
    TeacherSettings,
    TrainingSettings,
)
from generation.settings import CorpusSettings, GenerationSettings

SHIPPED = Path(__file__).parent / "recipes"
NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")

S = TypeVar("S", bound=Settings)


class Recipe(Settings):
    """All sections of a run. Paths are relative to the directory that `listwise` is called from."""

    name: str = Field(min_length=1, description="what the run is called in its report")
    workdir: str = Field(
        min_length=1,
        description="folder that holds everything the run makes; s3://, gs:// or az:// for the stages before training",
    )
    corpus: CorpusSettings
    generation: GenerationSettings = GenerationSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    teachers: dict[str, TeacherSettings] = Field(min_length=1)
    lists: ListSettings = ListSettings()
    student: StudentSettings
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    cluster: ClusterSettings = ClusterSettings()

    @field_validator("teachers")
    @classmethod
    def _teacher_names_are_paths(cls, teachers: dict[str, TeacherSettings]) -> dict[str, TeacherSettings]:
        _check_names(teachers)
        return teachers

    @field_validator("retrieval")
    @classmethod
    def _retriever_names_are_paths(cls, retrieval: RetrievalSettings) -> RetrievalSettings:
        _check_names(retrieval.retrievers)
        return retrieval

    @model_validator(mode="before")
    @classmethod
    def _holds_no_secret(cls, data: Any) -> Any:
        """A recipe is written into the workdir and shown in reports. Said before anything else is, since mistakes
        are shown with their values."""
        if secrets := [f"`{field}` holds a secret ({what})" for field, what in _secrets(data, "")]:
            raise ValueError(
                f"{'; '.join(secrets)}. A recipe is copied into the workdir and into reports. Take it out, and set it "
                "in the environment of driver and workers, such as OPENAI_API_KEY, HF_TOKEN or AWS_SECRET_ACCESS_KEY"
            )
        return data

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        problems = []
        if self.training.list_length > self.lists.length:
            problems.append(
                f"training.list_length is {self.training.list_length}, but lists hold only lists.length = "
                f"{self.lists.length} passages; lower the first or raise the second"
            )
        # A list that leaves its source out needs one candidate more.
        needed = self.lists.length + int(self._leaves_out_source())
        if needed > self.retrieval.depth:
            problems.append(
                f"lists of {self.lists.length} passages need {needed} candidates, but retrieval.depth is "
                f"{self.retrieval.depth}; raise it or lower lists.length"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _leaves_out_source(self) -> bool:
        chosen = self.lists.leave_out_source
        return self.generation.engine == "extractive" if chosen is None else chosen

    def dense_retrievers(self) -> dict[str, EncoderSettings]:
        """Encoder of every dense retriever; one that names none uses the student's base model."""
        dense = {name: one for name, one in self.retrieval.retrievers.items() if one.kind == "dense"}
        return {name: one.encoder or self.student_encoder() for name, one in dense.items()}

    def student_encoder(self) -> EncoderSettings:
        """The student's base model as a plain encoder: what retrievers and teachers need to know of it."""
        return EncoderSettings(**self.student.model_dump(include=set(EncoderSettings.model_fields)))

    def models(self) -> dict[str, str]:
        """Every model that this program loads itself, by the field that names it; a server's models are its own."""
        named: dict[str, str | None] = {"student.model": self.student.model}
        if self.generation.engine == "vllm":
            named["generation.model"] = self.generation.model
        for name, retriever in self.retrieval.retrievers.items():
            named[f"retrieval.retrievers.{name}.encoder.model"] = retriever.encoder.model if retriever.encoder else None
        for name, teacher in self.teachers.items():
            named[f"teachers.{name}.model"] = teacher.model
            named[f"teachers.{name}.encoder.model"] = teacher.encoder.model if teacher.encoder else None
        return {field: model for field, model in named.items() if model}

    def check_inputs(self) -> None:
        """Looks for what the recipe names on this machine, before anything is started or written.

        Raises:
            InputError: a model folder is not there or holds no weights that are safe to read; or the query log, or the
                evaluation's folder or split is not there; or a file of query types or examples has mistakes.
        """
        from distill.encoders.loading import resolve_model
        from generation import query_log
        from generation.engines.style import refuse_missing_template
        from generation.query_types import load_types
        from launcher.evaluation_set import check

        for field, model in self.models().items():
            try:
                resolve_model(model)
            except InputError as error:
                raise InputError(f"{field}: {error}") from None
        if self.corpus.query_log:
            query_log.scan(self.corpus.query_log, self.corpus.rows_per_shard)  # every line, before hours of work
        load_types(self.generation)
        refuse_missing_template(self.generation)
        check(self.evaluation)

    def to_yaml(self) -> str:
        """The resolved recipe, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _secrets(data: Any, place: str) -> Iterator[tuple[str, str]]:
    """Fields that hold a secret, and how that is known; the secret itself is not told."""
    if isinstance(data, dict):
        for key, value in data.items():
            field = f"{place}.{key}" if place else str(key)
            if isinstance(value, str) and value and is_secret_name(str(key)):
                yield field, "as its name says"
            else:
                yield from _secrets(value, field)
    elif isinstance(data, list):
        for value in data:
            yield from _secrets(value, place)
    elif isinstance(data, str) and (what := secret_in_url(data)):
        yield place, f"{what} in the url"


def shipped_recipes() -> list[str]:
    """Names of the recipes that come with listwise."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file (or a shipped recipe by its name), apply `--set` overrides and validate everything.

    Args:
        source: path of a YAML file, or the name of a shipped recipe.
        overrides: `section.field=value` each, values read as YAML.

    Raises:
        InputError: naming every problem with its place, value and remedy.
    """
    path = _locate(source)
    data, places = _read(path)
    return _validate(Recipe, data, places, overrides, f"the recipe {path}", str(path))


def validate_options(model: type[S], data: dict[str, Any], overrides: Sequence[str]) -> S:
    """Settings of a command that has no recipe, from its options and `--set`.

    Raises:
        InputError: naming every problem with its place, value and remedy.
    """
    return _validate(model, data, {}, overrides, "the command", "options")


def _validate(
    model: type[S], data: dict[str, Any], places: dict[Place, str], overrides: Sequence[str], what: str, file: str
) -> S:
    problems: list[str] = []
    for override in overrides:
        problem = _override(data, places, override)
        if problem:
            problems.append(problem)
    try:
        valid = model.model_validate(data)
    except ValidationError as error:
        problems += explain(error, model, places, file)
        raise InputError(listed(what, problems)) from None
    if problems:
        raise InputError(listed(what, problems))
    return valid


def _check_names(named: dict[str, Any]) -> None:
    for name in named:
        if not name or not set(name) <= NAME_CHARACTERS or name.startswith("."):
            raise ValueError(f"the name {name!r} becomes part of a path: use letters, digits, '-', '_' and '.'")


def _locate(source: str) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        raise InputError(f"{source} is a folder; expected a recipe file (a finished run keeps its own: recipe.yaml)")
    if source in shipped_recipes():
        return SHIPPED / f"{source}.yaml"
    siblings = [str(one) for one in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(source, siblings + shipped_recipes(), n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Shipped ones: {', '.join(shipped_recipes())}."
    raise InputError(f"there is no recipe {source}. {hint} `listwise init` writes a commented one.")


def _read(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """The file's sections, and where each field stands."""
    data, places = read_yaml(path, "a recipe")
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected sections such as `corpus:` and `student:`, found {shown(data)}")
    sections = set(Recipe.model_fields) - {"name", "workdir"}
    filled = {key: {} if value is None and key in sections else value for key, value in data.items()}
    return {str(key): value for key, value in filled.items()}, places


def _override(data: dict[str, Any], places: dict[Place, str], override: str) -> str | None:
    """Put one `section.field=value` into the data; the problem in words if it cannot be read."""
    key, equals, text = override.partition("=")
    way = tuple(part.strip() for part in key.split("."))
    if not equals or not all(way):
        return f"--set {override}: expected section.field=value, for example --set training.learning_rate=1e-4"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"--set {override}: the value is not valid YAML; quote it, for example --set '{key}=\"…\"'"
    for depth in range(1, len(way) + 1):
        places[way[:depth]] = f"--set {override}" if depth == len(way) else places.get(way[:depth], f"--set {override}")
    section = data
    for part in way[:-1]:
        below = section.setdefault(part, {})
        if below is None:
            below = section[part] = {}
        if not isinstance(below, dict):
            return f"--set {override}: `{part}` holds a value, not a section"
        section = below
    section[way[-1]] = value
    return None
