"""The time limit of a shard: what exceeds it is found, and who only waits is not charged with it."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from cluster.settings import PoolSettings
from tests.chaos.harness import until
from tests.cluster.example_workers import Count, CountAsync, Reading, SlowWholeShards
from tests.cluster.stages import MakeRun, numbers, values


@pytest.mark.slow
@pytest.mark.parametrize("worker", [Count, CountAsync])
def test_a_row_that_hangs_is_found_by_the_time_limit_and_rejected(run: MakeRun, worker: type) -> None:
    table = run(shard_timeout_s=3.0, max_reject_fraction=0.2).execute(numbers(16, 4, worker, poison={9: "hang"}))
    assert values(table) == [n for n in range(16) if n != 9]
    (reject,) = table.rejects()
    assert reject["row"] == "00002:1"
    assert "no result after" in reject["error"]


@pytest.mark.parametrize("early", [True, False])
def test_rows_are_not_charged_when_a_file_that_the_worker_itself_reads_cannot_be_read(
    run: MakeRun, early: bool
) -> None:
    engine = run(shard_timeout_s=4.0)
    file = engine.execute(numbers(10)).files()[0][0]
    path = Path(engine.storage.url, file)
    content = path.read_bytes()
    path.unlink()
    path.symlink_to(path)  # reading it now fails; a missing file would be another error

    def repair() -> None:
        until(lambda: engine.storage.exists("second/plan.json"), "the second stage")
        time.sleep(8.0)  # twice the time limit of a shard
        path.unlink()
        path.write_bytes(content)

    thread = threading.Thread(target=repair)
    thread.start()
    second = engine.execute(
        numbers(40, 10, Reading, "second", storage=engine.storage, file=file, early=early, seconds=2.5)
    )
    thread.join()
    assert values(second) == list(range(40))
    assert second.rejects() == []
    log = engine.storage.get("logs/second.log").decode()
    assert re.search(
        r"WARNING cluster.tables.storage: the storage .* refuses, and is tried again: .*symbolic links",
        log,
    )
    assert not re.search("died|hung", log), log  # the time limit counts from the storage's answer


@pytest.mark.slow
def test_a_part_that_waits_behind_a_whole_shard_does_not_hang(run: MakeRun) -> None:
    """The time limit of a part, an eighth of a shard's, counts only from when its worker begins it."""
    engine = run(shard_timeout_s=12.0, max_reject_fraction=0.1)
    pool = PoolSettings(workers=1)
    table = engine.execute(numbers(64, 8, SlowWholeShards, poison={1: "raise"}, seconds=2.0, pool=pool))
    assert values(table) == [n for n in range(64) if n != 1]
    assert [reject["row"] for reject in table.rejects()] == ["00000:1"]
    assert "hung" not in engine.storage.get("logs/numbers.log").decode()
