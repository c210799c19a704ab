from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cluster.errors import InputError
from generation.sources.ids import Listed, read_ids


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.txt", "b 1\n\n a \nc\n", [1, 3, 4]),
        ("a", "b 1\na\nc", [1, 2, 3]),
        ("a.jsonl", '{"docid": "b 1", "x": 1}\n{"docid": "a"}\n\n{"docid": "c"}\n', [1, 2, 4]),
        ("a.csv", 'note,_id\n"two\nlines",b 1\nx,a\nx,c\n', [2, 4, 5]),
        ("a.tsv", "id\tnote\nb 1\tx\na\tx\nc\tx\n", [2, 3, 4]),
    ],
)
def test_ids_are_read_in_order_with_their_lines_from_every_kind_of_file(
    tmp_path: Path, name: str, text: str, lines: list[int]
) -> None:
    (tmp_path / name).write_text(text)
    zipped = tmp_path / f"{name}.gz"
    zipped.write_bytes(gzip.compress(text.encode()))
    expected = [Listed(one, line) for one, line in zip(["b 1", "a", "c"], lines, strict=True)]
    assert read_ids(str(tmp_path / name), None) == expected
    assert read_ids(str(zipped), None) == expected


def test_an_id_that_comes_again_counts_once_where_it_came_first(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x\ny\nx\n")
    assert read_ids(str(tmp_path / "a"), None) == [Listed("x", 1), Listed("y", 2)]


def test_numbers_are_ids_and_a_field_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"_id": "no", "key": 7}\n')
    assert read_ids(str(tmp_path / "a.jsonl"), "key") == [Listed("7", 1)]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "\n \n", "holds no id"),
        ("a.jsonl", '{"_id": "a"}\n{"id": "b"}\n', r"a\.jsonl, line 2: there is no field '_id'"),
        ("a.jsonl", "a\n", r"a\.jsonl, line 1, column 1: not JSON"),
        ("a.csv", "name,note\nx,y\n", r"a\.csv, line 1: there is no column '_id' or .*; there are name, note"),
        ("a.csv", "note,id\nx,a\ny\n", r"a\.csv, line 3: 1 fields where the header has 2"),
        ("a.csv", "", "holds no id"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_ids(str(tmp_path / name), None)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.txt: cannot be read .* Correct corpus\.sources\.file"):
        read_ids(str(tmp_path / "no.txt"), None)
