"""CSV and TSV as people write them: delimiters, quotes, headers; no record may vanish inside another one."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.delimited import find_dialect, read_rows
from cluster.errors import InputError


def rows_of(path: Path, **options) -> list[list[str]]:
    dialect = find_dialect(path, "", lambda names: {"id", "text"} <= set(names), **options)
    rows = list(read_rows(path, dialect, ""))
    for row in rows:  # a worker begins at any of them
        assert next(read_rows(path, dialect, "", row.offset, row.line)) == row
    return [row.cells for row in rows]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            'id\ttext\nx1\t"Never cut an oak in May.\nx2\tAn elm.\nx3\tsaid he"\nx4\tA "fir".\n',
            [["x1", '"Never cut an oak in May.'], ["x2", "An elm."], ["x3", 'said he"'], ["x4", 'A "fir".']],
        ),
        ('id\ttext\nx1\t"Oak" is hard\nx2\telm\n', [["x1", '"Oak" is hard'], ["x2", "elm"]]),
        ('id\ttext\nx1\t"Oak is never closed\n', [["x1", '"Oak is never closed']]),
        ('id\ttext\nx1\t"Oak"\nx2\t"a ""b"""\n', [["x1", "Oak"], ["x2", 'a "b"']]),
        ('id\ttext\nx1\t"two\nlines"\nx2\telm\n', [["x1", "two\nlines"], ["x2", "elm"]]),
        ('id\ttext\nx1\t"a\ttab\nand a line"\n', [["x1", "a\ttab\nand a line"]]),
        ('id\ttext\r\n\r\nx1\t5" pipe\r\n', [["x1", '5" pipe']]),
    ],
    ids=["swallowing", "word", "open", "quoted", "lines", "tab", "inside"],
)
def test_quotes_of_a_tsv_are_text_unless_the_file_quotes_its_fields(
    text: str, expected: list[list[str]], tmp_path: Path
) -> None:
    assert rows_of(write(tmp_path / "docs.tsv", text)) == expected


def test_a_csv_whose_quote_may_swallow_records_is_refused_until_the_user_says_what_is_right(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.csv", 'id,text\nx1,"Never cut\nx2,elm\nx3,said he"\n')
    with pytest.raises(InputError, match=r"docs\.csv, line 2: .*lines 2 to 4 are one record.*corpus\.quoting: double"):
        rows_of(path)
    assert len(rows_of(path, quoting="double")) == 1
    assert [cells[0] for cells in rows_of(path, quoting="none")] == ["x1", "x2", "x3"]


def test_a_quoted_field_of_lines_that_look_like_records_is_one_record_if_others_prove_quoting(tmp_path: Path) -> None:
    path = write(tmp_path / "docs.csv", 'id,text\nx1,"one, two, three"\nx2,"Dear all\nyours, me"\n')
    assert [cells[0] for cells in rows_of(path)] == ["x1", "x2"]
    path = write(tmp_path / "docs.csv", 'id,text\nx1,"one, two, three"\nx2,"Dear all\nyours, me\n\nhe, too"\n')
    assert len(rows_of(path)) == 2
    path = write(tmp_path / "docs.tsv", 'id\ttext\nx0\t"a\ttab"\nx1\t"Never cut\nx2\telm\nx3\tsaid he"\n')
    with pytest.raises(InputError, match=r"line 3: .*lines 3 to 5 are one record"):
        rows_of(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('id\ttext\nx1\t"Oak" is hard\nx2\ttoo\tmany\n', ["line 2: not CSV", "quotes are text: line 3: 3 fields"]),
        ('"id"\t"text"\n"x1"\t"he said \\"no\\" twice"\n', ["line 2: not CSV"]),
        ("id\ttext\nx1\ttoo\tmany\n", ["line 2: 3 fields where the header has 2"]),
        ("id\ttext\ntext\nx1\tx\n", ["line 2: 1 fields where the header has 2"]),
    ],
    ids=["neither", "backslashes", "many", "few"],
)
def test_a_file_that_fits_neither_way_is_refused(text: str, words: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        rows_of(write(tmp_path / "docs.tsv", text))
    for word in words:
        assert word in str(caught.value)
    assert "corpus.quoting" in str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["docs.csv", "docs.tsv"])
def test_the_delimiter_is_the_one_that_splits_the_header_into_the_columns(
    name: str, delimiter: str, tmp_path: Path
) -> None:
    text = f"id{delimiter} text\nx1{delimiter}one, two; three | four\n".replace("\t four", "")
    path = write(
        tmp_path / name, text if delimiter == "\t" else f'id{delimiter}text\nx1{delimiter}"one, two; three | 4"\n'
    )
    assert len(rows_of(path)) == 1
    assert rows_of(path)[0][1].startswith("one, two; three | ")


def test_two_columns_of_one_name_are_refused_and_columns_without_a_name_are_not(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: columns 2 and 4 are both called 'text'"):
        rows_of(write(tmp_path / "docs.csv", "id,text,title,text\na,b,c,d\n"))
    assert rows_of(write(tmp_path / "docs.csv", "id,text,,\na,b,,\n")) == [["a", "b", "", ""]]


def test_the_line_that_excel_writes_first_is_refused_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 1: a note for Excel"):
        rows_of(write(tmp_path / "docs.csv", "sep=;\r\nid;text\r\na;b\r\n"))


def test_a_file_without_a_header_has_the_columns_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "collection.tsv", '0\tThe presence of\n1\t"Manhattan, project\n')
    assert rows_of(path, columns=["id", "text"]) == [["0", "The presence of"], ["1", '"Manhattan, project']]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)


@given(rows=st.lists(st.tuples(st.integers(0, 99).map(lambda n: f"p {n} ."), CELLS, CELLS), min_size=1, max_size=6))
def test_what_pythons_writer_quotes_is_read_back_or_refused(rows, tmp_path_factory) -> None:
    path = tmp_path_factory.mktemp("csv") / "docs.csv"
    stream = io.StringIO(newline="")
    csv.writer(stream).writerows([("id", "title", "text"), *rows])
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")
    try:
        assert rows_of(path) == [list(row) for row in rows]
    except InputError as error:
        assert "each looks like a record" in str(error)
