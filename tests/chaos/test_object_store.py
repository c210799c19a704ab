"""The whole engine on an object store that fails for a while, loses answers, hangs up, and damages objects."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from cluster.errors import InputError
from cluster.run import Run
from cluster.settings import ClusterSettings
from cluster.tables.storage import Storage
from launcher.doctor.workdir import open_probe
from tests.chaos.driver import Spec
from tests.chaos.flaky_s3 import FlakyS3
from tests.chaos.harness import Driver, assert_nothing_lost, until
from tests.chaos.ledger import note

OUTAGES = {
    "slow down": "S3 answers 503 SlowDown for a while",
    "lose answers": "S3 does what it is asked and answers 503, for a while",
    "hang up": "S3 hangs up for a while",
}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyS3]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = FlakyS3(*server.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT_URL": proxy.url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield proxy
    proxy.close()
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_run_survives_faults_of_its_object_store_and_never_lists_while_shards_are_done(
    s3: FlakyS3, dice: random.Random, marker: str, tmp_path: Path, faults: Callable[[list[str]], list[str]]
) -> None:
    gate = tmp_path / "gate"
    spec = Spec("s3://bucket/run", marker, seconds=0.2, poison=123, gate=str(gate))
    times: dict[str, float] = {}
    with Driver(spec) as driver:
        outages = faults(list(OUTAGES))
        dice.shuffle(outages)
        for mode in outages:
            done = len(s3.commits("first"))
            until(lambda done=done: len(s3.commits("first")) > done or not driver.is_running(), "a commit")
            time.sleep(dice.uniform(0.0, 0.3))
            refused = s3.refused
            s3.mode = mode  # type: ignore[assignment]
            until(lambda refused=refused: s3.refused > refused, "a refused request")
            time.sleep(dice.uniform(0.2, 1.5))  # how long the outage lasts
            s3.mode = "pass"
            ended, done = time.monotonic(), len(s3.commits("first"))
            until(lambda done=done: len(s3.commits("first")) > done or gate.exists(), "a commit after the outage")
            times[OUTAGES[mode]] = time.monotonic() - ended
        driver.hurry()
        until(lambda: gate.exists() or not driver.is_running(), "the end of the first stage")
        damage(Storage(spec.workdir), dice)
        gate.unlink()
        driver.wait()
    commits = s3.commits("first")[: spec.rows // spec.rows_per_shard]  # those before the damage
    assert len({commit.path for commit in commits}) == len(commits), "every record was created once"
    begun, done = commits[0].seconds, commits[-1].seconds
    lists = [request for request in s3.requests if request.kind == "LIST"]
    assert not [request for request in lists if begun < request.seconds < done], "the run lists while shards are done"
    assert lists, "the proxy sees requests that list"
    storage = Storage(spec.workdir)
    assert_nothing_lost(storage, spec.rows, spec.poison)
    lines = storage.get("logs/first.log").decode().splitlines()
    assert lines
    assert [line for line in lines if not re.match(r"\S+ table=first worker=\S+ node=\S+ shard=\S+ ", line)] == []
    for fault, seconds in times.items():
        note(fault, seconds)
    note("object truncated, object bit-flipped: found by sha256, done again", None)


def damage(storage: Storage, dice: random.Random) -> None:
    """Truncates one data file of the first stage and flips a bit in another."""
    short, flipped = dice.sample(storage.list("first/data"), 2)
    storage.put(short, storage.get(short)[: -dice.randrange(1, 100)])
    data = bytearray(storage.get(flipped))
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    storage.put(flipped, bytes(data))


def test_a_store_that_lets_two_creators_win_is_refused_before_anything_is_written(s3: FlakyS3) -> None:
    s3.mode = "drop conditions"
    storage = Storage("s3://bucket/dropped")
    assert storage.create("x", b"1") and storage.create("x", b"2"), "what the test is about"
    with pytest.raises(InputError, match=r"s3://bucket/dropped replaces a file .*\(If-None-Match: \*\)"):
        Run("s3://bucket/dropped", ClusterSettings())
    with pytest.raises(InputError, match="replaces a file"), open_probe("s3://bucket/dropped"):
        pass
    assert storage.list("") == ["x"]
    s3.mode = "pass"
    Run("s3://bucket/dropped", ClusterSettings())
    with open_probe("s3://bucket/dropped"):
        pass
