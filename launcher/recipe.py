"""The recipe: one YAML file that describes everything a run does.

It is validated as a whole, and all mistakes are reported together. Each one is shown with its file and line (or its
`--set`), the field and the value; for an unknown key, with the most similar key that exists.
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

FieldPath = tuple[str, ...]  # the keys that lead to a field: ("teachers", "bm25", "weight")
S = TypeVar("S", bound=Settings)


class Recipe(Settings):
    """All sections of a recipe. Paths are relative to the directory in which `listwise` is called."""

    name: str = Field(min_length=1, description="name of the run in its report")
    workdir: str = Field(
        min_length=1,
        description="folder for everything the run makes; s3://, gs:// or az:// only for the stages before training",
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
        """Refuses a recipe with a secret, because recipes are written into workdirs and reports.

        It runs before all other validation, because other messages show the value of a field.
        """
        if secrets := [f"`{field}` holds a secret ({what})" for field, what in _secrets(data, "")]:
            raise ValueError(
                f"{'; '.join(secrets)}. A recipe is copied into the workdir and into reports. Remove it, and set it "
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
        # A list without the source passage needs one more candidate.
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
        setting = self.lists.leave_out_source
        return self.generation.engine == "extractive" if setting is None else setting

    def dense_retrievers(self) -> dict[str, EncoderSettings]:
        """The encoder of every dense retriever; a retriever that names none uses the student's base model."""
        retrievers = self.retrieval.retrievers.items()
        return {name: dense.encoder or self.student_encoder() for name, dense in retrievers if dense.kind == "dense"}

    def student_encoder(self) -> EncoderSettings:
        """The settings of the student's base model as an encoder, for retrievers and teachers."""
        return EncoderSettings(**self.student.model_dump(include=set(EncoderSettings.model_fields)))

    def models(self) -> dict[str, str]:
        """Every model that this program loads, by the field that names it; the model of a server is not one of them."""
        names: dict[str, str | None] = {"student.model": self.student.model}
        if self.generation.engine == "vllm":
            names["generation.model"] = self.generation.model
        for name, retriever in self.retrieval.retrievers.items():
            names[f"retrieval.retrievers.{name}.encoder.model"] = retriever.encoder.model if retriever.encoder else None
        for name, teacher in self.teachers.items():
            names[f"teachers.{name}.model"] = teacher.model
            names[f"teachers.{name}.encoder.model"] = teacher.encoder.model if teacher.encoder else None
        return {field: model for field, model in names.items() if model}

    def check_inputs(self) -> None:
        """Checks on this machine that the inputs of the recipe exist, before anything is started or written.

        Raises:
            InputError: the query log, the evaluation's folder or split, or a model's folder does not exist; or such a
                folder of a model holds no weights that are safe to read.
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
            query_log.scan(self.corpus.query_log, self.corpus.rows_per_shard)  # reads every line, before hours of work
        check(self.evaluation)

    def to_yaml(self) -> str:
        """The resolved recipe as YAML, with every default."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=120)


def _secrets(data: Any, parent: str) -> Iterator[tuple[str, str]]:
    """Fields that hold a secret, each with the sign of it; the secret itself is not shown."""
    if isinstance(data, dict):
        for key, value in data.items():
            field = f"{parent}.{key}" if parent else str(key)
            if isinstance(value, str) and value and is_secret_name(str(key)):
                yield field, "as its name says"
            else:
                yield from _secrets(value, field)
    elif isinstance(data, list):
        for value in data:
            yield from _secrets(value, parent)
    elif isinstance(data, str) and (what := secret_in_url(data)):
        yield parent, f"{what} in the url"


def shipped_recipes() -> list[str]:
    """Names of the recipes that are part of listwise."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(source: str, overrides: Sequence[str] = ()) -> Recipe:
    """Reads a recipe file (or a shipped recipe by its name), applies `--set` overrides and validates everything.

    Args:
        source: path of a YAML file, or the name of a shipped recipe.
        overrides: texts of the form `section.field=value`; the value is YAML.

    Raises:
        InputError: the recipe has mistakes; the message names each one with its line, value and remedy.
    """
    path = _locate(source)
    data, origins = _read(path)
    return _validate(Recipe, data, origins, overrides, f"the recipe {path}", str(path))


def validate_options(model: type[S], data: dict[str, Any], overrides: Sequence[str]) -> S:
    """Settings of a command that has no recipe, from its options and `--set`.

    Raises:
        InputError: the settings have mistakes; the message names each one with its option, value and remedy.
    """
    return _validate(model, data, {}, overrides, "the command", "options")


def _validate(
    model: type[S], data: dict[str, Any], origins: dict[FieldPath, str], overrides: Sequence[str], what: str, file: str
) -> S:
    """The validated settings.

    Args:
        model: class of the settings.
        data: nested values; the overrides are added to it.
        origins: for each field, the line of a file or the option that it comes from.
        overrides: as in `load_recipe`.
        what: name of the whole, for the first line of an error message.
        file: origin of fields that are missing in `origins`.
    """
    problems: list[str] = []
    for override in overrides:
        problem = _override(data, origins, override)
        if problem:
            problems.append(problem)
    try:
        valid = model.model_validate(data)
    except ValidationError as error:
        problems += _explain(error, origins, file)
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
        raise InputError(f"{source} is a folder; expected a recipe file (a workdir holds its recipe as recipe.yaml)")
    if source in shipped_recipes():
        return SHIPPED / f"{source}.yaml"
    siblings = [str(file) for file in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    matches = difflib.get_close_matches(source, siblings + shipped_recipes(), n=1)
    hint = f"Did you mean {matches[0]}?" if matches else f"Shipped ones: {', '.join(shipped_recipes())}."
    raise InputError(f"there is no recipe {source}. {hint} `listwise init` writes a commented one.")


# --- reading YAML with the line of every key -------------------------------------------------------------------------


def _read(path: Path) -> tuple[dict[str, Any], dict[FieldPath, str]]:
    """The data of a file, and the origin of each field ("recipe.yaml, line 12")."""
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
        position = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise InputError(f"{position}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply for a recipe") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected sections such as `corpus:` and `student:`, found {_shown(data)}")
    origins: dict[FieldPath, str] = {}
    _note_origins(node, (), str(path), origins)
    sections = set(Recipe.model_fields) - {"name", "workdir"}
    filled = {key: {} if value is None and key in sections else value for key, value in data.items()}
    return {str(key): value for key, value in filled.items()}, origins


def _note_origins(node: yaml.Node | None, parent: FieldPath, file: str, origins: dict[FieldPath, str]) -> None:
    """Adds the line of every field below a YAML node to `origins`."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        path = (*parent, str(key.value))
        origin = f"{file}, line {key.start_mark.line + 1}"
        if path in origins:
            raise InputError(f"{origin}: `{'.'.join(path)}` is here a second time; the first one is in {origins[path]}")
        origins[path] = origin
        _note_origins(value, path, file, origins)


def _override(data: dict[str, Any], origins: dict[FieldPath, str], override: str) -> str | None:
    """Puts one `section.field=value` into the data; returns the problem if it cannot be read."""
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        return f"--set {override}: expected section.field=value, for example --set training.learning_rate=1e-4"
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return f"--set {override}: the value is not valid YAML; quote it, for example --set '{key}=\"…\"'"
    for depth in range(1, len(path)):
        origins.setdefault(path[:depth], f"--set {override}")
    origins[path] = f"--set {override}"
    section = data
    for part in path[:-1]:
        subsection = section.setdefault(part, {})
        if subsection is None:
            subsection = section[part] = {}
        if not isinstance(subsection, dict):
            return f"--set {override}: `{part}` holds a value, not a section"
        section = subsection
    section[path[-1]] = value
    return None


# --- from pydantic's errors to one line each -------------------------------------------------------------------------


def _explain(error: ValidationError, origins: dict[FieldPath, str], file: str) -> list[str]:
    """One line for each mistake, in the order of the file."""
    details = error.errors(include_url=False)
    guesses = {}
    for detail in details:
        if detail["type"] == "extra_forbidden":
            path = tuple(str(part) for part in detail["loc"])
            guesses[path] = _most_similar_key(path)
    misspelt = {(*path[:-1], guess) for path, guess in guesses.items() if guess}
    order = {path: number for number, path in enumerate(origins)}
    problems = []
    for detail in details:
        path = tuple(str(part) for part in detail["loc"])
        if detail["type"] == "missing" and path in misspelt:
            continue  # the misspelt key is reported already
        written = _written_part(path, origins)
        sentence = _sentence(detail, path, guesses.get(path))
        problems.append((order.get(written, len(order)), f"{origins.get(written, file)}: {sentence}"))
    return [text for _, text in sorted(problems, key=lambda problem: problem[0])]


def _written_part(path: FieldPath, origins: dict[FieldPath, str]) -> FieldPath:
    """The longest part of a path that the user wrote: a missing field is reported at its section."""
    return next((path[:depth] for depth in range(len(path), 0, -1) if path[:depth] in origins), ())


def _sentence(detail: Any, path: FieldPath, guess: str | None) -> str:
    """The message for one of pydantic's errors; `guess` is the known key that is most similar to an unknown one."""
    field = ".".join(path)
    if detail["type"] == "extra_forbidden":
        if guess:
            return f"unknown key `{field}`; did you mean `{'.'.join((*path[:-1], guess))}`?"
        other = _field_of_another_section(path[-1])
        if other:
            return f"unknown key `{field}`; did you mean `{other}`?"
        known = ", ".join(_known_keys(path[:-1]))
        return f"unknown key `{field}`; the known keys are {known}"
    if detail["type"] == "missing":
        return f"`{field}` is missing{_description(path)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"`{field}`: {message}" if field else message
    return f"`{field}` is {_shown(detail['input'])}: {message[0].lower()}{message[1:]}{_description(path)}"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a section"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _description(path: FieldPath) -> str:
    owner = _settings_class(path[:-1])
    field = owner.model_fields.get(path[-1]) if owner else None
    return f" ({field.description})" if field and field.description else ""


def _known_keys(path: FieldPath) -> list[str]:
    model = _settings_class(path)
    return list(model.model_fields) if model else []


def _most_similar_key(path: FieldPath) -> str | None:
    matches = difflib.get_close_matches(path[-1], _known_keys(path[:-1]), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _field_of_another_section(key: str) -> str | None:
    """The field of any section whose key is similar, for a key that was written into the wrong section."""
    for section in Recipe.model_fields:
        matches = difflib.get_close_matches(key, _known_keys((section,)), n=1, cutoff=0.85)
        if matches:
            return f"{section}.{matches[0]}"
    return None


def _settings_class(path: FieldPath) -> type[BaseModel] | None:
    """The settings class that validates the section at a path of the recipe."""
    annotation: Any = Recipe
    for part in path:
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
    return next((kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
