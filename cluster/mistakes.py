"""What a person wrote in YAML, with the place of every field; and what is wrong with it, one line a mistake.

Each mistake is told with its file and line (or the `--set` it came from), the field, the value, and for an unknown key
the nearest one that exists.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from cluster.errors import InputError
from cluster.yaml_text import UnreadableError, load

Place = tuple[str, ...]  # the way to a field: ("teachers", "bm25", "weight"); items of a list by number: ("stop", "0")


def read_yaml(path: Path, what: str) -> tuple[Any, dict[Place, str]]:
    """The file's data, and where each field stands ("recipe.yaml, line 12").

    Args:
        path: of the file.
        what: it should be, for messages: "a recipe".

    Raises:
        InputError: it cannot be read, is no YAML, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        data, node = load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        raise InputError(f"{where}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise InputError(f"{path}: nested too deeply for {what}") from None
    except UnreadableError as error:
        where = f"{path}, line {error.line}" if error.line else str(path)
        raise InputError(f"{where}: this value cannot be read: {error}") from None
    places: dict[Place, str] = {}
    _note_places(node, (), str(path), places)
    return data, places


def _note_places(node: yaml.Node | None, place: Place, file: str, places: dict[Place, str]) -> None:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            here = (*place, str(number))
            places[here] = f"{file}, line {item.start_mark.line + 1}"
            _note_places(item, here, file, places)
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here = (*place, str(key.value))
        where = f"{file}, line {key.start_mark.line + 1}"
        if here in places:
            raise InputError(f"{where}: `{'.'.join(here)}` stands here a second time, first in {places[here]}")
        places[here] = where
        _note_places(value, here, file, places)


def listed(what: str, problems: list[str]) -> str:
    """All mistakes in one message."""
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"{what} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems)


def explain(error: ValidationError, model: type[BaseModel], places: dict[Place, str], file: str) -> list[str]:
    """One line for each of pydantic's errors, in the order of the file.

    Args:
        error: of validating what was written.
        model: the settings that all of it belongs to.
        places: where each field stands.
        file: named for a mistake that stands nowhere.
    """
    details = error.errors(include_url=False)
    guesses = {}
    for one in details:
        if one["type"] == "extra_forbidden":
            place = tuple(str(part) for part in one["loc"])
            guesses[place] = _nearest(model, place)
    meant = {(*place[:-1], guess) for place, guess in guesses.items() if guess}
    order = {place: number for number, place in enumerate(places)}
    problems = []
    for one in details:
        place = tuple(str(part) for part in one["loc"])
        if one["type"] == "missing" and place in meant:
            continue  # the misspelt key is reported already
        known = _known_part(place, places)
        sentence = _sentence(one, model, place, guesses.get(place))
        problems.append((order.get(known, len(order)), f"{places.get(known, file)}: {sentence}"))
    return [text for _, text in sorted(problems, key=lambda problem: problem[0])]


def known_keys(model: type[BaseModel], place: Place) -> list[str]:
    """Fields that settings have at a place; none if there are no settings."""
    found = _model_at(model, place)
    return list(found.model_fields) if found else []


def shown(value: Any) -> str:
    """A value as messages show it."""
    if isinstance(value, dict):
        return "a section"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _known_part(place: Place, places: dict[Place, str]) -> Place:
    """The deepest part of `place` that someone wrote: a missing field is reported at its section."""
    return next((place[:depth] for depth in range(len(place), 0, -1) if place[:depth] in places), ())


def _sentence(one: Any, model: type[BaseModel], place: Place, guess: str | None) -> str:
    field = ".".join(place)
    if one["type"] == "extra_forbidden":
        if guess:
            return f"unknown key `{field}`; did you mean `{'.'.join((*place[:-1], guess))}`?"
        home = _home(model, place[-1])
        if home:
            return f"unknown key `{field}`; did you mean `{home}`?"
        known = ", ".join(known_keys(model, place[:-1]))
        return f"unknown key `{field}`; known here: {known}"
    if one["type"] == "missing":
        return f"`{field}` is missing{_described(model, place)}"
    message = str(one["msg"]).removeprefix("Value error, ")
    if one["type"] == "value_error":
        return f"`{field}`: {message}" if field else message
    return f"`{field}` is {shown(one['input'])}: {message[0].lower()}{message[1:]}{_described(model, place)}"


def _described(model: type[BaseModel], place: Place) -> str:
    owner = _model_at(model, place[:-1])
    field = owner.model_fields.get(place[-1]) if owner else None
    return f" ({field.description})" if field and field.description else ""


def _nearest(model: type[BaseModel], place: Place) -> str | None:
    near = difflib.get_close_matches(place[-1], known_keys(model, place[:-1]), n=1, cutoff=0.6)
    return near[0] if near else None


def _home(model: type[BaseModel], key: str) -> str | None:
    """The section that knows a key which stands in the wrong one."""
    for section in model.model_fields:
        near = difflib.get_close_matches(key, known_keys(model, (section,)), n=1, cutoff=0.85)
        if near:
            return f"{section}.{near[0]}"
    return None


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel] | None:
    """The settings class that a place is validated by."""
    annotation: Any = model
    for part in place:
        if get_origin(annotation) in (dict, list):
            annotation = get_args(annotation)[-1]
            continue
        if part.isdecimal() and (items := [one for one in get_args(annotation) if get_origin(one) is tuple]):
            annotation = get_args(items[0])[0]  # one section, or several
            continue
        owner = _as_model(annotation)
        if owner is None or part not in owner.model_fields:
            return None
        annotation = owner.model_fields[part].annotation
    return _as_model(annotation)


def _as_model(annotation: Any) -> type[BaseModel] | None:
    candidates = (annotation, *get_args(annotation))
    return next((one for one in candidates if isinstance(one, type) and issubclass(one, BaseModel)), None)
