"""Paths of a recipe as every process of a run understands them: absolute.

Workers and ranks have working directories of their own, so a relative path would mean another folder there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from cluster.settings import Settings

S = TypeVar("S", bound=Settings)

# Fields that hold a path of this machine, and those that may: a model may be an id of the hub, a template a known name.
PATHS = {"path", "query_log", "dataset", "types_folder", "examples_file", "rubric", "file"}
NAMES_OR_PATHS = {"model", "lora", "template"}


def absolute_paths(settings: S) -> S:
    """The settings with absolute paths of the files and folders that exist on this machine; other texts stay."""
    given = settings.model_dump()
    absolute = _absolute(given)
    return settings if absolute == given else type(settings).model_validate(absolute)


def _absolute(value: Any, field: str = "") -> Any:
    if isinstance(value, dict):
        served = value.get("kind") == "http" or value.get("engine") == "openai"
        return {key: inner if served and key == "model" else _absolute(inner, key) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_absolute(inner, field) for inner in value)
    if field in PATHS | NAMES_OR_PATHS and isinstance(value, str) and value and "://" not in value and _exists(value):
        return str(Path(value).expanduser().absolute())
    return value


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a text that no file system takes as a name
        return False
