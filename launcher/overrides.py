"""`--set section.field=value`: one field of a recipe is changed on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import ValidationError

from cluster.mistakes import Place
from cluster.yaml_text import load


def override_field(data: dict[str, Any], origins: dict[Place, str], override: str) -> str | None:
    """Puts one `section.field=value` into the data; returns the problem if it cannot be read."""
    key, equals, text = override.partition("=")
    path = tuple(part.strip() for part in key.split("."))
    if not equals or not all(path):
        return f"--set {override}: expected section.field=value, for example --set training.learning_rate=1e-4"
    try:
        value = _value(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text  # of a text field; any other field refuses it
    for depth in range(1, len(path)):
        origins.setdefault(path[:depth], f"--set {override}")
    origins[path] = f"--set {override}"
    section: Any = data
    for depth, part in enumerate(path):
        at: Any = part
        if isinstance(section, list):
            here = ".".join(path[:depth])
            if not part.isdecimal() or int(part) >= len(section):
                return (
                    f"--set {override}: `{here}` is a list of {len(section)} sections; name one of them by its number, "
                    f"from {here}.0 to {here}.{len(section) - 1}"
                )
            at = int(part)
        elif not isinstance(section, dict):
            return f"--set {override}: `{path[depth - 1]}` holds a value, not a section"
        if depth == len(path) - 1:
            section[at] = value
        elif (section[at] if isinstance(section, list) else section.get(at)) is None:
            section[at] = {}
            section = section[at]
        else:
            section = section[at]
    return None


def expected_texts(error: ValidationError) -> list[Place]:
    """Fields that should hold a text and hold something else."""
    return [tuple(map(str, one["loc"])) for one in error.errors() if one["type"] == "string_type"]


def take_as_text(data: dict[str, Any], place: Place, overrides: Sequence[str]) -> bool:
    """Puts the text of `--set` where YAML saw a section, a list or a number, such as `query: ` in a prompt."""
    for override in reversed(overrides):
        key, _, text = override.partition("=")
        if tuple(part.strip() for part in key.split(".")) == place:
            section: Any = data
            for part in place[:-1]:
                section = section[int(part) if isinstance(section, list) else part]
            section[place[-1]] = text
            return True
    return False


def _value(text: str) -> Any:
    """The value as YAML; plain text as it stands, with the blanks and hashes that YAML would take away."""
    value, begin = load(text)[0], text.lstrip()[:1]
    is_plain = (isinstance(value, str) and begin not in "\"'|>&!") or (value is None and begin == "#")
    return text if is_plain else value
