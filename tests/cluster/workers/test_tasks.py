"""Bisection without a cluster: exactly the rows that cannot be done are rejected, whichever workers die."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.tables.commit import Commit
from cluster.tables.plan import Shard
from cluster.workers.tasks import Attempt, Split, Tasks


def commit(attempt: Attempt) -> Commit:
    rows = attempt.stop - attempt.start
    return Commit(attempt.shard.name, (), rows, rows, {}, 0, 0, 0.0, "w0", "here")


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.integers(1, 40), min_size=1, max_size=4), data=st.data())
def test_every_row_is_done_once_and_only_rows_that_cannot_be_done_are_rejected(
    rows: list[int], data: st.DataObject
) -> None:
    shards = [Shard(f"{number:05d}", count) for number, count in enumerate(rows)]
    poison = {
        (shard.name, row) for shard in shards for row in data.draw(st.sets(st.integers(0, shard.rows - 1), max_size=3))
    }
    limit = data.draw(st.integers(1, 3))
    accidents = data.draw(st.integers(0, limit - 1))  # too few to reject a row that can be done
    dice = random.Random(data.draw(st.integers()))
    tasks = Tasks(shards, limit)
    finished: list[Commit | Split] = []
    while tasks.queue:
        attempt = tasks.queue.popleft()
        attempt.tries += 1
        bad = any((attempt.shard.name, row) in poison for row in range(attempt.start, attempt.stop))
        if not bad and accidents and dice.random() < 0.3:
            accidents -= 1
            finished += tasks.charge(attempt, "an accident")
        elif bad:
            finished += tasks.charge(attempt, "poison")
        else:
            finished += tasks.done(attempt, commit(attempt))
    names = {result.shard if isinstance(result, Commit) else result.shard.name for result in finished}
    assert names == {shard.name for shard in shards}
    assert len(finished) == len(shards)
    rejected = set()
    for split in finished:
        if isinstance(split, Split):
            assert split.parts[0].start == 0
            assert [part.stop for part in split.parts][:-1] == [part.start for part in split.parts][1:]
            assert split.parts[-1].stop == split.shard.rows
            rejects = [part for part in split.parts if part.commit is None]
            assert all(part.stop == part.start + 1 and part.attempts == limit for part in rejects)
            rejected |= {(split.shard.name, part.start) for part in rejects}
    assert rejected == poison


def fail_all(tasks: Tasks, error: str, until: int = 10_000) -> int:
    """Failures until the tasks have a common error, or none is left."""
    count = 0
    while tasks.queue and not tasks.common_error and count < until:
        attempt = tasks.queue.popleft()
        attempt.tries += 1
        count += 1
        tasks.charge(attempt, error.format(count))
    return count


def test_rows_that_all_fail_alike_are_given_up_before_all_are_tried() -> None:
    tasks = Tasks([Shard("00000", 460)], 3)
    failures = fail_all(tasks, "ValueError: no token of padding in row {}")
    assert tasks.common_error.startswith("ValueError")
    assert failures < 50
    assert tasks.queue


def test_rows_that_fail_in_other_ways_or_beside_one_that_succeeds_are_rejected_one_by_one() -> None:
    tasks = Tasks([Shard("00000", 40)], 1)
    while tasks.queue:
        attempt = tasks.queue.popleft()
        attempt.tries += 1
        tasks.charge(attempt, "ValueError: odd" if attempt.start % 2 else "KeyError: even")
        assert not tasks.common_error

    tasks = Tasks([Shard("00000", 1), Shard("00001", 40)], 1)
    first = tasks.queue.popleft()
    tasks.done(first, commit(first))
    fail_all(tasks, "ValueError: poison")
    assert not tasks.queue, "rows of one file may all be bad where others are not"
    assert not tasks.common_error
