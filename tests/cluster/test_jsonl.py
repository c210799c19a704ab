"""Lines of files and JSON objects on them: what ends a line, what a file may hold, and what an error names."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.jsonl import Line, read_id, read_lines, read_text

EXAMPLE = '{"_id": "7"}'
MARK = b"\xef\xbb\xbf"
# Separators that end a line for str.splitlines, and none of them for JSON lines.
ODD = "one\rtwo\u2028three\x85four\x0bfive"


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def lines_of(path: Path, offset: int = 0, number: int = 1) -> list[Line]:
    return list(read_lines(path, "Do this.", offset, number))


def message(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_only_line_feeds_end_a_line_and_blank_lines_are_numbered(name: str, tmp_path: Path) -> None:
    content = f'{ODD}\n\n  \r\n{{"_id": 1}}\r\nlast'.encode()
    lines = lines_of(write(tmp_path / name, content))
    assert [line.content.removesuffix(b"\n") for line in lines] == content.split(b"\n")
    assert [line.number for line in lines] == [1, 2, 3, 4, 5]
    assert [line.is_blank for line in lines] == [False, True, True, False, False]
    assert lines[0].text() == f"{ODD}\n"
    assert lines[3].json_object(EXAMPLE) == {"_id": 1}
    assert lines[4].place == f"{tmp_path / name}, line 5"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_reading_from_the_offset_of_any_line_gives_that_line_and_those_after_it(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, MARK + "".join(f'{{"text": "é {n}"}}\n\n' for n in range(5)).encode() + b"last")
    lines = lines_of(path)
    for position, line in enumerate(lines):
        assert lines_of(path, line.offset, line.number) == lines[position:]
        assert line.end == (lines[position + 1].offset if position < 10 else line.offset + len("last"))


def test_a_byte_order_mark_is_skipped_at_the_start_of_a_file_and_refused_anywhere_else(tmp_path: Path) -> None:
    first, second = lines_of(write(tmp_path / "a.jsonl", MARK + b"{}\n" + MARK + b"{}\n"))
    assert first.text() == "{}\n"
    assert first.json_object(EXAMPLE) == {}
    assert "a.jsonl, line 2: not JSON (it begins with a byte order mark)" in message(lambda: second.json_object(""))
    assert lines_of(write(tmp_path / "b.jsonl", MARK + b"\n"))[0].is_blank


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"_id": "b", "text": \n', ["column 21: not JSON (Expecting value)"]),
        (b'{"_id": "b"} {}\n', ["column 14: not JSON (Extra data)"]),
        (b'{"text": "caf\xe9"}\n', ["byte 14 of the line: 0xe9 is not UTF-8", "iconv"]),
        (b'"a"\n', ["found a string"]),
        (b"true\n", ["found a boolean"]),
        (b"1.5\n", ["found a number"]),
        (b"null\n", ["found null"]),
        (b'{"a":' * 100_000 + b"\n", ["nested too deeply"]),
        (b'{"_id": ' + b"1" * 5_000 + b"}\n", ["a number in the JSON has too many digits"]),
    ],
    ids=["cut", "more", "latin-1", "string", "boolean", "number", "null", "deep", "long"],
)
def test_an_error_names_file_line_and_cause_and_shows_an_example(line: bytes, words: list[str], tmp_path: Path) -> None:
    lines = lines_of(write(tmp_path / "a.jsonl", b"{}\n\n" + line + b"{}\n"))
    text = message(lambda: lines[2].json_object(EXAMPLE))
    assert text.startswith(f"{tmp_path / 'a.jsonl'}, line 3")
    for word in words if "UTF-8" in words[0] else [*words, f"such as {EXAMPLE}"]:
        assert word in text
    assert lines[3].json_object(EXAMPLE) == {}


@pytest.mark.parametrize("content", [b'[{"_id": "7"}]\n', b'[\n  {"_id": "7"}\n]\n'])
def test_a_file_that_is_one_list_is_refused_with_the_command_that_makes_lines_of_it(
    content: bytes, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.jsonl", content)
    text = message(lambda: lines_of(path)[0].json_object(EXAMPLE))
    assert text.startswith(f"{path}, line 1")
    assert f"jq -c '.[]' {path} > {path}.jsonl" in text


def test_a_byte_that_is_not_utf8_is_counted_from_the_start_of_its_line_in_the_file(tmp_path: Path) -> None:
    content = MARK + b'{"text": "caf\xe9"}'
    (line,) = lines_of(write(tmp_path / "a.jsonl", content))
    assert f"byte {content.index(0xE9) + 1} of the line" in message(line.text)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.jsonl", None, "No such file"),
        ("folder.jsonl", "folder", "Is a directory"),
        ("plain.gz", b"{}\n", "Not a gzipped file"),
        ("cut.gz", gzip.compress(b"{}\n", mtime=0)[:-9], "ended before the end-of-stream marker"),
        ("spoilt.gz", gzip.compress(b"{}\n" * 99, mtime=0)[:10] + b"\xff" * 20, "invalid"),
    ],
    ids=["absent", "folder", "plain", "cut", "spoilt"],
)
def test_a_file_that_cannot_be_read_is_named_with_reason_and_advice(
    name: str, content: bytes | str | None, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        path.mkdir()
    text = message(lambda: lines_of(path))
    assert text.startswith(f"{path}: cannot be read (")
    assert reason in text
    assert text.endswith(". Do this.")


def test_ids_are_strings_or_whole_numbers_and_texts_are_strings() -> None:
    assert read_id({"_id": "Ωμέγα 🚢"}, "_id", "here", "") == "Ωμέγα 🚢"
    assert read_id({"_id": 7}, "_id", "here", "") == "7"
    assert read_text({"text": ""}, "text", "here", "") == ""


@pytest.mark.parametrize(
    ("read", "record", "problem"),
    [
        (read_id, "{}", "there is no field 'f'. Expected an id"),
        (read_id, '{"f": null}', "field 'f' is null"),
        (read_id, '{"f": " "}', "field 'f' is ' ' (str)"),
        (read_id, '{"f": true}', "field 'f' is True (bool)"),
        (read_id, '{"f": 1.0}', "field 'f' is 1.0 (float)"),
        (read_text, "{}", "there is no field 'f'. Expected a string"),
        (read_text, '{"f": null}', "field 'f' is null"),
        (read_text, '{"f": ["x"]}', "field 'f' is ['x'] (list)"),
    ],
)
def test_a_wrong_field_is_named_with_its_place_and_value(
    read: Callable[[dict, str, str, str], str], record: str, problem: str
) -> None:
    text = message(lambda: read(json.loads(record), "f", "a.jsonl, line 3", "Do this."))
    assert text.startswith(f"a.jsonl, line 3: {problem}")
    assert text.endswith("Do this.")


def test_half_of_a_character_is_refused_in_an_id_and_replaced_in_a_text() -> None:
    """JSON can spell half of a surrogate pair, as what is left of an emoji that was cut."""
    record = json.loads(r'{"_id": "b\ud83d", "text": "ships \ud83d\udea2 and \ud83d"}')
    text = message(lambda: read_id(record, "_id", "a.jsonl, line 3", ""))
    assert r"line 3: field '_id' is 'b\ud83d' (str), which holds half of a character" in text
    assert read_text(record, "text", "a.jsonl, line 3", "") == "ships 🚢 and ?"
