"""The recipe: one YAML file, validated as a whole, that says everything a run does.

Every mistake is reported at once, each with its file and line (or the `--set` it came from), the field, the value, and
for an unknown key the nearest one that exists.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from cluster.disclosure import is_secret_name, secret_in_url
from cluster.errors import InputError
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

Place = tuple[str, ...]  # the way to a field: ("teachers", "bm25", "weight")
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
                evaluation's folder or split is not there.
        """
        from distill.encoders.loading import resolve_model
        from generation import query_log
        from launcher.evaluation_set import check

        for field, model in self.models().items():
            try:
                resolve_model(model)
            except InputError as error:
                raise InputError(f"{field}: {error}") from None
        if self.corpus.query_log:
            query_log.scan(self.corpus.query_log, self.corpus.rows_per_shard)  # every line, before hours of work
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
        problems += _explain(error, places, file)
        raise InputError(_message(what, problems)) from None
    if problems:
        raise InputError(_message(what, problems))
    return valid


def _message(what: str, problems: list[str]) -> str:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{what} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems)


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


# --- reading YAML with the line of every key -------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """The file's data, and where each field stands ("recipe.yaml, line 12")."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise InputError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply for a recipe") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected sections such as `corpus:` and `student:`, found {_shown(data)}")
    places: dict[Place, str] = {}
    _note_places(node, (), str(path), places)
    sections = set(Recipe.model_fields) - {"name", "workdir"}
    filled = {key: {} if value is None and key in sections else value for key, value in data.items()}
    return {str(key): value for key, value in filled.items()}, places


def _note_places(node: yaml.Node | None, place: Place, file: str, places: dict[Place, str]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*place, str(key.value))
        where = f"{file}, line {key.start_mark.line + 1}"
        if here in places:
            raise InputError(f"{where}: `{'.'.join(here)}` stands here a second time, first in {places[here]}")
        places[here] = where
        _note_places(value, here, file, places)


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


# --- from pydantic's errors to one line each -------------------------------------------------------------------------


def _explain(error: ValidationError, places: dict[Place, str], file: str) -> list[str]:
    details = error.errors(include_url=False)
    guesses = {}
    for one in details:
        if one["type"] == "extra_forbidden":
            place = tuple(str(part) for part in one["loc"])
            guesses[place] = _nearest(place)
    meant = {(*place[:-1], guess) for place, guess in guesses.items() if guess}
    order = {place: number for number, place in enumerate(places)}
    problems = []
    for one in details:
        place = tuple(str(part) for part in one["loc"])
        if one["type"] == "missing" and place in meant:
            continue  # the misspelt key is reported already
        known = _known_part(place, places)
        sentence = _sentence(one, place, guesses.get(place))
        problems.append((order.get(known, len(order)), f"{places.get(known, file)}: {sentence}"))
    return [text for _, text in sorted(problems, key=lambda problem: problem[0])]


def _known_part(place: Place, places: dict[Place, str]) -> Place:
    """The deepest part of `place` that someone wrote: a missing field is reported at its section."""
    return next((place[:depth] for depth in range(len(place), 0, -1) if place[:depth] in places), ())


def _sentence(one: Any, place: Place, guess: str | None) -> str:
    field = ".".join(place)
    if one["type"] == "extra_forbidden":
        if guess:
            return f"unknown key `{field}`; did you mean `{'.'.join((*place[:-1], guess))}`?"
        home = _homes(place[-1])
        if home:
            return f"unknown key `{field}`; did you mean `{home}`?"
        known = ", ".join(_known_keys(place[:-1]))
        return f"unknown key `{field}`; known here: {known}"
    if one["type"] == "missing":
        return f"`{field}` is missing{_described(place)}"
    message = str(one["msg"]).removeprefix("Value error, ")
    if one["type"] == "value_error":
        return f"`{field}`: {message}" if field else message
    return f"`{field}` is {_shown(one['input'])}: {message[0].lower()}{message[1:]}{_described(place)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _described(place: Place) -> str:
    owner = _model_at(place[:-1])
    field = owner.model_fields.get(place[-1]) if owner else None
    return f" ({field.description})" if field and field.description else ""


def _known_keys(place: Place) -> list[str]:
    model = _model_at(place)
    return list(model.model_fields) if model else []


def _nearest(place: Place) -> str | None:
    near = difflib.get_close_matches(place[-1], _known_keys(place[:-1]), n=1, cutoff=0.6)
    return near[0] if near else None


def _homes(key: str) -> str | None:
    """The section that knows a key which stands in the wrong one."""
    for section in Recipe.model_fields:
        near = difflib.get_close_matches(key, _known_keys((section,)), n=1, cutoff=0.85)
        if near:
            return f"{section}.{near[0]}"
    return None


def _model_at(place: Place) -> type[BaseModel] | None:
    """The settings class that a place of the recipe is validated by."""
    annotation: Any = Recipe
    for part in place:
        if get_origin(annotation) is dict:
            annotation = get_args(annotation)[1]
            continue
        model = _as_model(annotation)
        if model is None or part not in model.model_fields:
            return None
        annotation = model.model_fields[part].annotation
    return _as_model(annotation)


def _as_model(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)
