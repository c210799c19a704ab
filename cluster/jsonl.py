"""Lines of text files and of JSON lines, read strictly: every error names the file and the line.

Only a line feed ends a line, since a JSON string may hold every other separator; in a file without any, carriage
returns do. A byte order mark is skipped at the start of a file and nowhere else. Compressed files and UTF-16 are read
as `cluster/files/content.py` says.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cluster.errors import InputError
from cluster.files.content import UNREADABLE, convert, lines_from, why_unreadable
from cluster.unicode import is_valid_utf8, valid_utf8

_BYTE_ORDER_MARK = "\ufeff"
_SHOWN_CHARACTERS = 40  # of a wrong value, in messages
_JSON_TYPES = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


class _RepeatedFieldError(ValueError):
    """An object has a field twice; its text is the name."""


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        file: name of the file, for messages.
        number: number of the line, from 1.
        offset: byte at which the line begins; in a compressed file, byte of its content as UTF-8.
        content: bytes of the line, with its line feed.
    """

    file: str
    number: int
    offset: int
    content: bytes

    @property
    def end(self) -> int:
        """Byte at which the next line begins."""
        return self.offset + len(self.content)

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.file}, line {self.number}"

    @property
    def is_blank(self) -> bool:
        """Whether the line holds nothing but white space, or the byte order mark of its file."""
        content = self.content if self.offset else self.content.removeprefix(_BYTE_ORDER_MARK.encode())
        return not content.strip()

    def text(self) -> str:
        """The line as text, with its line end and without the byte order mark of its file.

        Raises:
            InputError: the line is not UTF-8; names the byte.
        """
        try:
            text = self.content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{self.place}, byte {error.start + 1} of the line: 0x{self.content[error.start]:02x} is not UTF-8. "
                f"Expected a UTF-8 file. Convert it, naming the encoding in which it was written (WINDOWS-1252, or "
                f"GB18030, SHIFT_JIS, WINDOWS-1251): {convert(Path(self.file), 'WINDOWS-1252')}"
            ) from None
        return text if self.offset else text.removeprefix(_BYTE_ORDER_MARK)

    def json_object(self, example: str) -> dict[str, Any]:
        """The JSON object on the line.

        Args:
            example: an object as the file should hold it, for messages.

        Raises:
            InputError: the line is not UTF-8, is not JSON, or holds another JSON value than an object.
        """
        text = self.text().rstrip()
        expected = f"Expected one JSON object on each line, such as {example}. Correct or remove the line."
        if text.startswith("["):
            name = shlex.quote(self.file)
            expected = "Expected one JSON object on each line. A file that is one list becomes such lines with: "
            expected += f"jq -c '.[]' {name} > {shlex.quote(self.file + '.jsonl')}"
        if text.startswith(_BYTE_ORDER_MARK):
            raise InputError(f"{self.place}: not JSON (it begins with a byte order mark). {expected}")
        try:
            value = json.loads(text, object_pairs_hook=_object)
        except json.JSONDecodeError as error:
            raise InputError(f"{self.place}, column {error.colno}: not JSON ({error.msg}). {expected}") from None
        except RecursionError:
            raise InputError(f"{self.place}: the JSON is nested too deeply. {expected}") from None
        except _RepeatedFieldError as error:
            raise InputError(f"{self.place}: the field '{error}' occurs twice in an object. Rename one.") from None
        except ValueError:  # Python converts no more than 4,300 digits to an integer
            raise InputError(f"{self.place}: a number in the JSON has too many digits. {expected}") from None
        if not isinstance(value, dict):
            raise InputError(f"{self.place}: found {_JSON_TYPES.get(type(value), 'null')}. {expected}")
        return value


def read_lines(path: Path, advice: str, offset: int = 0, number: int = 1) -> Iterator[Line]:
    """Lines of a file, blank ones too, from the one that begins at byte `offset`.

    Args:
        path: the file.
        advice: last sentence of the message if the file cannot be read.
        offset: byte at which a line begins, as in `Line.offset`.
        number: number of the line at `offset`.

    Raises:
        InputError: the file cannot be opened, read or decompressed.
    """
    try:
        for content in lines_from(path, offset):
            yield Line(str(path), number, offset, content)
            offset += len(content)
            number += 1
    except UNREADABLE as error:
        raise InputError(f"{path}: cannot be read ({why_unreadable(path, error)}). {advice}") from None


def read_id(record: Mapping[str, Any], field: str, place: str, advice: str) -> str:
    """The id in a field of a record; a whole number becomes text.

    Args:
        record: an object or row.
        field: name of the field.
        place: file and line of the record, for messages.
        advice: last sentence of the message if the id is wrong.

    Raises:
        InputError: the field is missing, is neither a non-empty string nor a whole number, or holds half of a
            character.
    """
    value = record.get(field)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        expected = "Expected an id, which is a non-empty string or a whole number"
        raise InputError(f"{place}: {_problem(record, field)}. {expected}. {advice}")
    if not is_valid_utf8(value):
        raise InputError(
            f"{place}: {_problem(record, field)}, which holds half of a character (one code of a surrogate pair). "
            "Write the whole character as UTF-8."
        )
    return value


def read_text(record: Mapping[str, Any], field: str, place: str, advice: str) -> str:
    """The text in a field of a record, with every half of a surrogate pair replaced by a question mark.

    Args:
        record: an object or row.
        field: name of the field.
        place: file and line of the record, for messages.
        advice: last sentence of the message if the text is wrong.

    Raises:
        InputError: the field is missing or is no string.
    """
    value = record.get(field)
    if not isinstance(value, str):
        raise InputError(f"{place}: {_problem(record, field)}. Expected a string. {advice}")
    return valid_utf8(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object by name."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedFieldError(next(name for name in names if names.count(name) > 1))
    return fields


def _problem(record: Mapping[str, Any], field: str) -> str:
    """What the field holds: "field '_id' is True (bool)"."""
    if field not in record:
        return f"there is no field '{field}'"
    value = record[field]
    if value is None:
        return f"field '{field}' is null"
    text = repr(value)
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
    return f"field '{field}' is {shown} ({type(value).__name__})"
