"""A storage keeps its promises on a local disk and on an S3 server, also the one operation that decides races."""

from __future__ import annotations

import os
import pickle
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cluster.errors import InputError
from cluster.tables.storage import Storage, StorageError, seconds_since_retry


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The url of an S3 server on loopback, with the environment variables that a user would set for it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield "s3://bucket/run"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture(params=["local", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "local":
        return Storage(str(tmp_path / "run"))
    return Storage(request.getfixturevalue("s3") + f"/{tmp_path.name}")


def test_an_object_can_be_put_read_listed_and_deleted(storage: Storage) -> None:
    storage.put("a/b/plan.json", b"1")
    storage.put("a/record.json", b"2")
    storage.put("ab/three", b"3")
    assert storage.get("a/b/plan.json") == b"1"
    assert storage.buffer("a/record.json").to_pybytes() == b"2"
    assert storage.list("a") == ["a/b/plan.json", "a/record.json"]
    assert storage.folders() == ["a", "ab"]
    storage.delete("a")
    assert storage.list("") == ["ab/three"]
    storage.delete("ab/three")
    storage.delete("nothing")
    assert not storage.exists("ab/three")


def test_an_absent_object_is_a_key_error(storage: Storage) -> None:
    with pytest.raises(KeyError):
        storage.get("nothing")
    with pytest.raises(KeyError):
        storage.buffer("nothing")
    assert not storage.exists("nothing")


def test_of_many_creators_exactly_one_wins(storage: Storage) -> None:
    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(lambda n: storage.create("lock", str(n).encode()), range(16)))
    assert sum(won) == 1
    assert storage.get("lock") == str(won.index(True)).encode()


def test_a_storage_pickles_as_its_url_and_its_patience(storage: Storage) -> None:
    storage.put("x", b"x")
    unpickled = pickle.loads(pickle.dumps(Storage(storage.url, 7.0)))
    assert unpickled.get("x") == b"x"
    assert unpickled.patience_s == 7.0


def test_an_unknown_scheme_and_a_file_in_the_way_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ftp"):
        Storage("ftp://host/run")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used as a folder"):
        Storage(str(tmp_path / "file" / "run"))


def unreadable(folder: Path, repaired_after_s: float | None) -> Path:
    """A file that cannot be read, because it is a link to itself; it is repaired after a while."""
    path = folder / "file"
    path.symlink_to(path)

    def repair() -> None:
        (folder / "new").write_bytes(b"content")
        (folder / "new").rename(path)

    if repaired_after_s is not None:
        threading.Timer(repaired_after_s, repair).start()
    return path


def test_a_failing_call_is_retried_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unreadable(tmp_path, repaired_after_s=1.0)
    contents: list[bytes] = []
    reader = threading.Thread(target=lambda: contents.append(Storage(str(tmp_path), patience_s=60.0).get("file")))
    reader.start()
    time.sleep(0.5)
    assert seconds_since_retry() == 0.0
    reader.join()
    assert contents == [b"content"]
    assert 0.0 < seconds_since_retry() < 30.0
    Storage(str(tmp_path)).get("file")  # a call that does not fail changes nothing
    time.sleep(0.2)
    assert seconds_since_retry() > 0.2
    refuses, answers = (record.getMessage() for record in caplog.records)
    assert re.fullmatch(rf"the storage {tmp_path} refuses, and is tried again: .*symbolic links.*", refuses)
    assert re.fullmatch(rf"the storage {tmp_path} answers again, after \d\.\d s", answers)


def test_a_storage_that_fails_for_too_long_is_an_error_of_its_own(tmp_path: Path) -> None:
    unreadable(tmp_path, None)
    begun = time.monotonic()
    with pytest.raises(StorageError, match=r"has failed for 1 s, last: .*\. Committed work is kept; the same command"):
        Storage(str(tmp_path), patience_s=1.0).get("file")
    assert time.monotonic() - begun >= 1.0
    with pytest.raises(StorageError, match="has failed for 0 s"):
        Storage(str(tmp_path)).get("file")
    assert seconds_since_retry() > 0.0


@pytest.mark.parametrize("place", ["training", "training/checkpoints", "lists", "lists/data"])
def test_nothing_behind_a_link_is_removed_and_the_command_says_so_before_it_removes_anything(
    tmp_path: Path, place: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "plan.json").touch()
    storage = Storage(str(tmp_path / "run"))
    stage = place.split("/", maxsplit=1)[0]
    storage.put(f"{stage}/plan.json", b"{}") if place != stage else None
    (tmp_path / "run" / place).symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match=rf"run/{place} is a symbolic link to {tmp_path}/mine. Nothing behind"):
        storage.delete(stage)
    assert (tmp_path / "mine" / "plan.json").exists()
    assert (tmp_path / "run" / place).is_symlink()
    assert place == stage or storage.exists(f"{stage}/plan.json")


def test_a_link_to_a_file_goes_and_the_file_stays(tmp_path: Path) -> None:
    (tmp_path / "mine.json").touch()
    storage = Storage(str(tmp_path / "run"))
    storage.put("lists/progress.json", b"{}")
    (tmp_path / "run" / "lists" / "plan.json").symlink_to(tmp_path / "mine.json")
    storage.delete("lists")
    assert not (tmp_path / "run" / "lists").exists()
    assert (tmp_path / "mine.json").exists()


def test_files_that_no_table_makes_stay_and_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Storage(str(tmp_path))
    digest, plan = "0f" * 32, "0123456789ab"
    made = [f"lists/{name}" for name in (
        "plan.json", "progress.json", f"complete.{plan}.json", f"data/00000.{digest}.parquet",
        f"commits/00000.{plan}.json", f"rejects/00000.{digest}.json", f"withdrawn/00000.{plan}.json",
        f"data/00001.{digest}.parquet#3", f"budget.{plan}.json", f"dropped/00000.{digest}.json",
    )]  # fmt: skip
    mine = ["lists/notes.txt", "lists/data/table.parquet", "lists/mine/plan.txt"]
    for path in (*made, *mine):
        storage.put(path, b"x") if "#" not in path else (tmp_path / path).write_bytes(b"x")
    storage.delete("lists")
    assert storage.list("") == sorted(mine)
    assert "no stage has made lists/data/table.parquet, lists/mine/plan.txt, lists/notes.txt" in caplog.text


def test_a_folder_that_other_processes_empty_too_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / "table" / name).mkdir(parents=True)
        (tmp_path / "table" / name / "plan.json").touch()
    real = os.unlink
    monkeypatch.setattr(os, "unlink", lambda *args, **named: [real(*args, **named), real(*args, **named)])
    Storage(str(tmp_path)).delete("table")
    assert not (tmp_path / "table").exists()


def test_a_url_without_a_usable_store_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^s3://: cannot be used as a storage"):
        Storage("s3://")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")
    with pytest.raises(InputError, match=r"^gs://bucket/run: cannot be used as a storage"):
        Storage("gs://bucket/run")
