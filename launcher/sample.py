"""Passages of a run with what was written for them, chosen evenly over all shards that are done.

A kept query is read from its table. Of dropped answers each shard keeps a few of every reason
(`cluster/tables/dropped.py`). Near-duplicates and what the judge dropped are all there, since they are in a table
before they are dropped (`launcher/later_drops.py`).
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import DISTINCT, PASSAGES, QUERIES
from cluster.tables.commit import Commit, drops_of
from cluster.tables.dropped import read_dropped
from cluster.tables.plan import Shard
from cluster.tables.records import read_recipe
from cluster.tables.shard_reader import ShardReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from generation.distinct import NEAR_DUPLICATE
from generation.mixture import Section
from launcher.later_drops import LaterDrops, read_rows

T = TypeVar("T")


@dataclass(frozen=True)
class Written:
    """A query, or an answer that was dropped for a reason; `writer` says who wrote it, in a mixture of engines."""

    query_type: str
    text: str
    reason: str | None
    writer: str = ""


@dataclass(frozen=True)
class Sampled:
    """A passage, and what was written for it."""

    passage_id: str
    title: str
    text: str
    written: tuple[Written, ...] = ()
    neighbour: str = ""  # title and text of the passage that queries over two passages need, too


def sample_passages(storage: Storage, count: int) -> list[Sampled]:
    """At most `count` passages at equal distances.

    Raises:
        InputError: no passage is committed yet.
    """
    table = _committed(storage, PASSAGES.path)
    files = [file for commit in table.commits() for file in commit.files]
    wanted = _spread(range(sum(rows for _, rows in files)), count)
    sampled: list[Sampled] = []
    first = 0
    for path, rows in files:
        here = [number - first for number in wanted if first <= number < first + rows]
        if here:
            columns = read_rows(storage, path, ["passage_id", "title", "text"])
            sampled += [_passage(row) for row in columns.take(pa.array(here)).to_pylist()]
        first += rows
    return sampled


class QuerySample:
    """What was asked, kept and dropped so far, and passages to look at.

    Raises:
        InputError: no query is committed yet.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._tables = _query_tables(storage)
        self._later = LaterDrops(storage, has_judge(read_recipe(storage)))
        self._reader = ShardReader(storage)
        commits = [commit for table in self._tables.values() for commit in table.committed().values()]
        self.drops = drops_of(commits)
        # by name, so that reasons with equal counts come in one order, whichever shard was done first
        self.drops = Counter(dict(sorted((self.drops + self._later.drops).items())))
        self.kept = sum(table.num_rows for table in self._tables.values()) - self._later.drops.total()

    def check(self, query_type: str | None, reason: str | None) -> None:
        """Looks whether the run has such a type and such a reason.

        Raises:
            InputError: it has not; names those that there are.
        """
        types = _types(self.storage)
        if query_type is not None and query_type not in types:
            raise InputError(f"--type {query_type}: this run asks for no such type; there are {', '.join(types)}.")
        if reason is not None and not self.drops[reason]:
            there = ", ".join(name for name, _ in self.drops.most_common())
            told = f"there are {there}" if there else "nothing was dropped so far"
            raise InputError(f"--dropped {reason}: nothing was dropped for this reason; {told}.")

    def passages(self, count: int, query_type: str | None = None, reason: str | None = None) -> list[Sampled]:
        """At most `count` passages with their queries, and with those of their dropped answers that the run has kept.

        Args:
            count: of passages.
            query_type: shows this type alone.
            reason: shows answers that were dropped for this reason, and no queries.
        """
        shards = [
            (writer, shard, commit)
            for writer, table in self._tables.items()
            for shard in table.plan.shards
            if (commit := table.committed().get(shard.name)) and self._may_hold(commit, reason)
        ]
        random.Random(0).shuffle(shards)  # so that a few of them stand for all
        share = -(-count // max(1, len(shards)))
        chosen: list[Sampled] = []
        others: list[Sampled] = []
        for writer, shard, commit in shards:
            if len(chosen) >= count:
                break
            found = list(self._of_shard(writer, shard, commit, query_type, reason))
            places = _spread(range(len(found)), share)
            chosen += [found[place] for place in places]
            others += [one for place, one in enumerate(found) if place not in places][:count]
        return (chosen + others)[:count]

    def _may_hold(self, commit: Commit, reason: str | None) -> bool:
        if reason is not None and reason in self._later.drops:
            return any(self._later.drops_of(path)[reason] for path, _ in commit.files)
        return reason is None or reason in commit.drops

    def _of_shard(
        self, writer: str, shard: Shard, commit: Commit, query_type: str | None, reason: str | None
    ) -> Iterator[Sampled]:
        rows = self._reader.rows(shard, 0, shard.rows)
        written = self._written(writer, commit)
        for row in rows.to_pylist() if rows is not None else []:
            shown = tuple(
                one
                for one in written[row["passage_id"]]
                if query_type in (None, one.query_type) and reason in (None, one.reason)
            )
            if shown:
                yield _passage(row, shown)

    def _written(self, writer: str, commit: Commit) -> dict[str, list[Written]]:
        """By passage: the queries of a shard, then what it dropped, as far as that is kept."""
        written: dict[str, list[Written]] = defaultdict(list)
        for path, _ in commit.files:
            queries = read_rows(self.storage, path, ["query_id", "source_id", "query_type", "text"]).to_pylist()
            reasons = self._later.reasons(path, [query["query_id"] for query in queries])
            for query in queries:
                reason = reasons.get(query["query_id"])
                written[query["source_id"]].append(Written(query["query_type"], query["text"], reason, writer))
        for one in read_dropped(self.storage, commit):
            source, query_type, _ = one.unit.rsplit(":", 2)
            written[source].append(Written(query_type, one.text, one.reason, writer))
        return written


def near_duplicates_by_table(storage: Storage) -> Counter[str]:
    """How many queries of each table were dropped as near-duplicates so far; a shard reads one table."""
    counts: Counter[str] = Counter()
    with suppress(KeyError):
        table = Table.open(storage, DISTINCT.path)
        for shard in table.plan.shards:
            if commit := table.committed().get(shard.name):
                counts[shard.slices[0].file.rpartition("/data/")[0]] += commit.drops.get(NEAR_DUPLICATE, 0)
    return counts


def _committed(storage: Storage, path: str) -> Table:
    try:
        table = Table.open(storage, path)
    except KeyError:
        table = None
    if table is None or not table.committed():
        raise InputError(f"{storage.url} holds no {path} yet; see what is done with: listwise status {storage.url}")
    return table


def sections(recipe: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The sections of a recipe's `generation`, as a workdir keeps them: one, or those of a list."""
    generation = recipe["generation"]
    return list(generation) if isinstance(generation, list) else [generation]


def has_judge(recipe: Mapping[str, Any]) -> bool:
    """Whether queries of a recipe, as a workdir keeps it, are judged."""
    return any(section.get("judge") for section in sections(recipe))


def writers(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Table of each section of a recipe, and who writes there; without a name where there is only one."""
    several = sections(recipe)
    if len(several) == 1:
        return {QUERIES.path: ""}
    return {Section(number).path: f"{number}: {_name(one)}" for number, one in enumerate(several)}


def _name(section: Mapping[str, Any]) -> str:
    """The model, without the folder it lies in, or the engine."""
    return str(section["model"] or section["engine"]).rstrip("/").rpartition("/")[2]


def _query_tables(storage: Storage) -> dict[str, Table]:
    """The tables of queries that have begun, by who writes them."""
    named = writers(read_recipe(storage))
    tables: dict[str, Table] = {}
    for path, writer in named.items():
        with suppress(InputError):
            tables[writer] = _committed(storage, path)
    return tables or {"": _committed(storage, QUERIES.path)}


def _types(storage: Storage) -> list[str]:
    return list(dict.fromkeys(name for one in sections(read_recipe(storage)) for name in one["query_types"]))


def _passage(row: dict[str, Any], written: tuple[Written, ...] = ()) -> Sampled:
    neighbour = f"{row.get('neighbour_title') or ''} {row.get('neighbour_text') or ''}".strip()
    return Sampled(row["passage_id"], row["title"] or "", row["text"] or "", written, neighbour)


def _spread(items: Sequence[T], count: int) -> list[T]:
    """At most `count` items at equal distances, the first and the last among them."""
    if count >= len(items):
        return list(items)
    if count == 1:
        return [items[len(items) // 2]]
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]
