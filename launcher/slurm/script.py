"""The ready scripts, and the function that fills in the settings at their top; the rest of a script does not change."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from cluster.errors import InputError

RUN = Path(__file__).parent / "run.sbatch"
TRAIN = Path(__file__).parent / "train.sbatch"

BEGIN, END = "# --- settings ", "# --- end of settings "
SBATCH = "#SBATCH --"
SETTING = re.compile(r"(\w+)=(.*?)(?:\s+(# .*))?")
COMMENT_COLUMN = 36

Value = str | int | list[str]


def fill_in(script: Path, options: Mapping[str, str | int | None], settings: Mapping[str, Value]) -> str:
    """The text of a ready script with other settings.

    Args:
        script: `RUN` or `TRAIN`.
        options: long name of an sbatch option → value; an empty value means an option without one, None removes it.
        settings: shell variable → value; a list becomes an array.

    Raises:
        InputError: a value holds a line break or another control character, which would break the script.
    """
    lines = script.read_text(encoding="utf-8").splitlines()
    begin, end = (next(i for i, line in enumerate(lines) if line.startswith(mark)) for mark in (BEGIN, END))
    block = lines[begin + 1 : end]
    own_options = dict(line.removeprefix(SBATCH).partition("=")[::2] for line in block if line.startswith(SBATCH))
    merged = {name: value for name, value in (own_options | dict(options)).items() if value is not None}
    filled = [
        f"{SBATCH}{name}" + (f"={_sbatch_word(str(value))}" if value != "" else "") for name, value in merged.items()
    ]
    for line in block:
        if not line.startswith(SBATCH):
            filled += _setting(line, settings)
    return "\n".join([*lines[: begin + 1], *filled, *lines[end:], ""])


def _setting(line: str, settings: Mapping[str, Value]) -> list[str]:
    """The lines of one setting, with its comment beside it; if the setting is long, the comment is above it."""
    match = SETTING.fullmatch(line)
    if match is None or match[1] not in settings:
        return [line]
    name, comment = match[1], match[3]
    value = settings[name]
    assignment = f"{name}=({_shell(*value)})" if isinstance(value, list) else f"{name}={_shell(str(value))}"
    if not comment:
        return [assignment]
    if len(assignment) < COMMENT_COLUMN:
        return [f"{assignment:{COMMENT_COLUMN}}{comment}"]
    return [comment, assignment]


def _shell(*words: str) -> str:
    for word in words:
        _refuse_control_characters(word)
    return shlex.join(words) if words != ("",) else ""


def _sbatch_word(value: str) -> str:
    """A value in the quotes that sbatch understands: double quotes, in which a backslash escapes the next character."""
    _refuse_control_characters(value)
    if re.fullmatch(r"[\w@%+=:,./\-\[\]&|*!]*", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _refuse_control_characters(value: str) -> None:
    if not value.isprintable():
        raise InputError(f"{value!r} holds a line break or another control character, which a job script cannot hold")
