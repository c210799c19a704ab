"""Some of the units that a shard has dropped, with their texts, so that a person can see what a reason takes.

They are stored beside the shard's data and not in its commit record, because everyone who reads a table reads all of
its commit records. Their number and length are bounded, so they stay small beside the data.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace

from cluster.tables.commit import Commit, put_records
from cluster.tables.storage import Storage
from cluster.unicode import valid_utf8

PER_REASON = 8  # units of each reason and shard
MOST_UNITS = 200  # of a shard
MOST_CHARACTERS = 300  # of a text


@dataclass(frozen=True)
class Dropped:
    """A unit left out on purpose, for people to look at: what it is called, the reason, and the text it had."""

    unit: str
    reason: str
    text: str


def choose(dropped: Iterable[Dropped]) -> list[Dropped]:
    """At most `PER_REASON` units of each reason, and `MOST_UNITS` in all.

    A hash of the units decides which, so that the same units are chosen again, and every type and passage has the same
    chance.
    """
    chosen: list[Dropped] = []
    taken: Counter[str] = Counter()
    for each in sorted(dropped, key=lambda each: hashlib.blake2b(each.unit.encode(), digest_size=8).digest()):
        if taken[each.reason] < PER_REASON and len(chosen) < MOST_UNITS:
            taken[each.reason] += 1
            text = each.text if len(each.text) <= MOST_CHARACTERS else each.text[: MOST_CHARACTERS - 1] + "…"
            chosen.append(replace(each, text=valid_utf8(text)))
    return chosen


def put_dropped(storage: Storage, table: str, shard: str, dropped: Iterable[Dropped]) -> tuple[str, ...]:
    """Writes some of a shard's drops to a file; returns (path,), or () if there are none."""
    return put_records(storage, f"{table}/dropped", shard, [asdict(each) for each in choose(dropped)])


def read_dropped(storage: Storage, commit: Commit) -> list[Dropped]:
    """Some of a shard's drops. A file that is missing counts as empty: nothing depends on it."""
    chosen: list[Dropped] = []
    for path in commit.dropped_files:
        with suppress(KeyError):
            chosen += [Dropped(**record) for record in json.loads(storage.get(path))]
    return chosen
