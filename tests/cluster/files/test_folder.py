"""Which files of a folder are read, and what is said about the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.files.folder import list_files
from cluster.files.names import find_named


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def test_files_of_a_kind_are_found_in_all_folders_whatever_their_case_and_compression(tmp_path: Path) -> None:
    touch(
        tmp_path, "a.jsonl", "B.JSONL", "d.jsonl.gz", "more/c.jsonl", "more/deep/E.Jsonl.ZST", "notes.txt", "more/x.csv"
    )
    touch(tmp_path, "._a.jsonl", ".hidden/a.jsonl", "__MACOSX/a.jsonl", "_temporary/a.jsonl", ".DS_Store")
    found = list_files(tmp_path, (".jsonl",))
    assert found.names == ["B.JSONL", "a.jsonl", "d.jsonl.gz", "more/c.jsonl", "more/deep/E.Jsonl.ZST"]
    assert found.left_out == ["more/x.csv", "notes.txt"]
    note = found.note(tmp_path)
    assert note == f"{tmp_path}: 5 files are read; left out: 2 of another kind (more/x.csv, notes.txt), 2 hidden"
    assert list_files(tmp_path / "more" / "deep", (".jsonl",)).note(tmp_path) is None


def test_links_are_followed_once_and_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "blobs/3f2a91", "folder/a.tsv")
    (tmp_path / "folder" / "b.tsv").symlink_to("../blobs/3f2a91")
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder")
    assert list_files(tmp_path / "folder", (".tsv",)).names == ["a.tsv", "b.tsv"]
    (tmp_path / "blobs" / "3f2a91").unlink()
    with pytest.raises(InputError, match=r"b\.tsv is a link to \.\./blobs/3f2a91, where there is nothing"):
        list_files(tmp_path / "folder", (".tsv",))


def test_a_file_is_found_by_its_name_also_compressed_but_not_if_there_are_two(tmp_path: Path) -> None:
    assert find_named(tmp_path, "corpus.jsonl") is None
    touch(tmp_path, "Corpus.JSONL.gz")
    assert find_named(tmp_path, "corpus.jsonl") == tmp_path / "Corpus.JSONL.gz"
    touch(tmp_path, "corpus.jsonl.zst")
    with pytest.raises(InputError, match=r"Corpus\.JSONL\.gz and corpus\.jsonl\.zst are both corpus\.jsonl"):
        find_named(tmp_path, "corpus.jsonl")
    touch(tmp_path, "corpus.jsonl")
    assert find_named(tmp_path, "corpus.jsonl") == tmp_path / "corpus.jsonl"
