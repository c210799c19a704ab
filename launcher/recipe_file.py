"""A recipe is read from a YAML file.

It is validated as a whole, and all mistakes are reported together. Each one is shown with its file and line (or its
`--set`), the field and the value; for an unknown key, with the most similar key that exists.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cluster.errors import InputError
from cluster.mistakes import Place, explain, listed, read_yaml, shown
from cluster.settings import Settings
from launcher.overrides import expected_texts, override_field, take_as_text
from launcher.recipe import Recipe

SHIPPED = Path(__file__).parent / "recipes"

S = TypeVar("S", bound=Settings)


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
    model: type[S], data: dict[str, Any], origins: dict[Place, str], overrides: Sequence[str], what: str, file: str
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
        problem = override_field(data, origins, override)
        if problem:
            problems.append(problem)
    try:
        valid = model.model_validate(data)
    except ValidationError as error:
        taken = [take_as_text(data, place, overrides) for place in expected_texts(error)]
        if any(taken):
            return _validate(model, data, origins, (), what, file)
        problems += explain(error, model, origins, file)
        raise InputError(listed(what, problems)) from None
    if problems:
        raise InputError(listed(what, problems))
    return valid


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


def _read(path: Path) -> tuple[dict[str, Any], dict[Place, str]]:
    """The sections of a file, and the origin of each field ("recipe.yaml, line 12")."""
    data, origins = read_yaml(path, "a recipe")
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected sections such as `corpus:` and `student:`, found {shown(data)}")
    sections = set(Recipe.model_fields) - {"name", "workdir"}
    filled = {key: {} if value is None and key in sections else value for key, value in data.items()}
    return {str(key): value for key, value in filled.items()}, origins
