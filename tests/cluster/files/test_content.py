"""Content of files as people bring them: compressed, of other encodings, with other line ends, cut or damaged."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.files import content
from cluster.files.names import CODECS
from cluster.jsonl import Line, read_lines

PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
TEXT = "".join(f'{{"text": "é {number} {"x" * (number % 97)}"}}\n\n' for number in range(3000))


def lines_of(path: Path, offset: int = 0, number: int = 1) -> list[Line]:
    return list(read_lines(path, "Do this.", offset, number))


def contents(path: Path) -> bytes:
    return b"".join(line.content for line in lines_of(path))


def message(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        for line in lines_of(path):
            line.text()
    return str(caught.value)


@pytest.mark.parametrize("suffix", [*CODECS, ".GZ"])
def test_compressed_files_of_one_or_several_streams_are_read_from_any_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"docs.jsonl{suffix}"
    pack = PACK[suffix.lower()]
    half = len(TEXT) // 2
    path.write_bytes(pack(TEXT[:half].encode()) + pack(TEXT[half:].encode()))
    lines = lines_of(path)
    assert b"".join(line.content for line in lines) == TEXT.encode()
    for position in (1, 2, 2999, 5999, 17):
        assert lines_of(path, lines[position].offset, lines[position].number) == lines[position:]


def test_a_compressed_file_is_known_by_its_content_if_its_name_says_nothing(tmp_path: Path) -> None:
    for suffix, pack in PACK.items():
        path = tmp_path / f"3f2a91{suffix[1:]}"
        path.write_bytes(pack(TEXT.encode()))
        assert contents(path) == TEXT.encode(), suffix


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("keep", [0, 40, -5])
def test_a_compressed_file_that_is_cut_is_refused_with_the_command_that_checks_it(
    suffix: str, keep: int, tmp_path: Path
) -> None:
    path = tmp_path / f"docs.jsonl{suffix}"
    path.write_bytes(PACK[suffix](TEXT.encode())[:keep])
    text = message(path)
    assert text.startswith(f"{path}: cannot be read (")
    assert f"{CODECS[suffix]} -t {path}" in text


def test_shards_that_are_read_one_after_another_decompress_a_file_twice_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docs.jsonl.gz"
    path.write_bytes(gzip.compress(TEXT.encode() * 40))
    monkeypatch.setattr(content, "_BLOCK", 1 << 14)
    opened = []
    real = content.open_decompressed
    monkeypatch.setattr(content, "open_decompressed", lambda path: opened.append(path) or real(path))
    lines = lines_of(path)
    opened.clear()
    for first in range(0, len(lines), 500):
        reader = read_lines(path, "", lines[max(0, first - 2)].offset, lines[max(0, first - 2)].number)
        expected = lines[max(0, first - 2) : first + 502]
        assert [line for line, _ in zip(reader, expected, strict=False)] == expected
        del reader
    assert len(opened) <= 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_other_unicode_encodings_and_line_ends_are_read_from_any_line(encoding: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / "docs.csv"
    path.write_bytes("".join(f"{number},é\U0001f6a2 {number}{end}" for number in range(20_000)).encode(encoding))
    lines = lines_of(path)
    assert [line.text().rstrip("\r\n") for line in lines] == [
        f"{number},é\U0001f6a2 {number}" for number in range(20_000)
    ]
    for position in (1, 2, 19_000):
        assert lines_of(path, lines[position].offset, lines[position].number) == lines[position:]


def test_utf_16_without_a_mark_is_refused_with_a_command_that_converts_it(tmp_path: Path) -> None:
    path = tmp_path / "my docs.csv"
    for encoding in ("UTF-16LE", "UTF-16BE"):
        path.write_bytes("id,text\na,é\n".encode(encoding))
        command = message(path).partition("with: ")[2]
        assert f"-f {encoding}" in command
        subprocess.run(command, shell=True, check=True)
        assert (tmp_path / "my docs-utf8.csv").read_text(encoding="utf-8") == "id,text\na,é\n"


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_command_for_another_encoding_converts_the_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"docs.tsv{suffix}"
    data = "id\ttext\na\tcafé\n".encode("cp1252")
    path.write_bytes(gzip.compress(data) if suffix else data)
    text = message(path)
    assert "line 2, byte 6 of the line: 0xe9 is not UTF-8" in text
    subprocess.run(text.partition("WINDOWS-1251): ")[2], shell=True, check=True)
    assert (tmp_path / "docs-utf8.tsv").read_text(encoding="utf-8") == "id\ttext\na\tcafé\n"


def test_utf_16_that_ends_within_a_character_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "docs.csv"
    path.write_bytes(codecs.BOM_UTF16_LE + "id,text\na,b".encode("utf-16-le")[:-1])
    assert "cannot be read" in message(path)


def test_a_pointer_of_git_lfs_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "docs.csv"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 7\n")
    assert "git lfs pull" in message(path)
