"""Paths in records never lead out of the workdir, whoever wrote the records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError, RunError
from cluster.schemas import PASSAGES
from cluster.tables.gc import collect_all
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from generation.readers.files import open_file
from tests.launcher.workdir import commit_table

OUT = "../victim"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    (tmp_path / "victim").write_text("kept")
    storage = Storage(str(tmp_path / "run"))
    commit_table(storage, PASSAGES, 10, {})
    return storage


@pytest.mark.parametrize("path", [OUT, "a/../../victim", "/etc/passwd", "a\0b"])
@pytest.mark.parametrize(
    "call",
    [
        lambda storage, path: storage.get(path),
        lambda storage, path: storage.put(path, b"x"),
        lambda storage, path: storage.create(path, b"x"),
        lambda storage, path: storage.exists(path),
        lambda storage, path: storage.remove(path),
        lambda storage, path: storage.delete(path),
        lambda storage, path: storage.list(path),
        lambda storage, path: storage.folders(path),
    ],
    ids=["get", "put", "create", "exists", "remove", "delete", "list", "folders"],
)
def test_no_call_of_a_storage_leaves_its_folder(
    storage: Storage, tmp_path: Path, call: Callable[[Storage, str], Any], path: str
) -> None:
    with pytest.raises(RunError, match="leads out of the workdir"):
        call(storage, path)
    assert (tmp_path / "victim").read_text() == "kept"


def rewrite(storage: Storage, before: str, after: str, *files: str) -> None:
    """Changes a name in records, as anybody could who can write to the workdir."""
    for file in files:
        text = storage.get(file).decode()
        assert before in text
        storage.put(file, text.replace(before, after).encode())


def test_a_commit_record_that_names_a_file_outside_is_refused(storage: Storage, tmp_path: Path) -> None:
    ((file, _),) = Table.open(storage, "passages").files()
    (record,) = storage.list("passages/commits")
    rewrite(storage, json.dumps(file), json.dumps(OUT), record)
    with pytest.raises(RunError, match="leads out of the workdir"):
        Table.open(storage, "passages").read()


def test_a_plan_that_names_a_shard_outside_causes_no_read_or_removal_there(storage: Storage, tmp_path: Path) -> None:
    rewrite(storage, '"00000"', json.dumps(f"../../{OUT}"), "passages/plan.json")
    table = Table.open(storage, "passages")
    with pytest.raises(RunError, match="leads out of the workdir"):
        table.read_commits([shard.name for shard in table.plan.shards])
    collect_all(storage)
    assert (tmp_path / "victim").read_text() == "kept"


@pytest.mark.parametrize("name", [OUT, "/etc/passwd", "a/../../victim"])
def test_a_plan_of_the_corpus_that_names_another_file_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "victim").write_text("kept")
    with pytest.raises(InputError, match=r"not in .*corpus"):
        open_file(tmp_path / "corpus", name)
