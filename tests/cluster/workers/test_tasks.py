"""Bisection by itself: whatever rows cannot be done and whichever workers die, just those rows are left over."""

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
def test_every_row_is_done_once_and_only_rows_that_cannot_be_done_are_left(
    rows: list[int], data: st.DataObject
) -> None:
    shards = [Shard(f"{number:05d}", count) for number, count in enumerate(rows)]
    poison = {
        (shard.name, row) for shard in shards for row in data.draw(st.sets(st.integers(0, shard.rows - 1), max_size=3))
    }
    limit = data.draw(st.integers(1, 3))
    accidents = data.draw(st.integers(0, limit - 1))  # so few that they can be told from poison
    dice = random.Random(data.draw(st.integers()))
    tasks = Tasks(shards, limit)
    finished: list[Commit | Split] = []
    while tasks.queue:
        attempt = tasks.queue.popleft()
        attempt.tries += 1
        bad = any((attempt.shard.name, row) in poison for row in range(attempt.start, attempt.stop))
        if not bad and accidents and dice.random() < 0.3:
            accidents -= 1
            finished += tasks.blame(attempt, "an accident")
        elif bad:
            finished += tasks.blame(attempt, "poison")
        else:
            finished += tasks.done(attempt, commit(attempt))
    assert {each.shard if isinstance(each, Commit) else each.shard.name for each in finished} == {
        s.name for s in shards
    }
    assert len(finished) == len(shards)
    rejected = set()
    for each in finished:
        if isinstance(each, Split):
            assert each.parts[0].start == 0
            assert [part.stop for part in each.parts][:-1] == [part.start for part in each.parts][1:]
            assert each.parts[-1].stop == each.shard.rows
            left = [part for part in each.parts if part.commit is None]
            assert all(part.stop == part.start + 1 and part.attempts == limit for part in left)
            rejected |= {(each.shard.name, part.start) for part in left}
    assert rejected == poison
