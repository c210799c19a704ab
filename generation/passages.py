"""The passages stage: records that are kept, and the sample of sources, for which queries may be written.

Duplicates and the sample depend on the whole corpus. The first worker of each machine computes them from the small
columns of the records table, so that only row ranges are sent to workers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.machines.shared_folder import shared_folder
from cluster.schemas import PASSAGES
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.near_duplicates import near_duplicates
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

KEPT, TOO_SHORT, CONTAINED, DUPLICATE, NEAR_DUPLICATE = range(5)
REASONS = {
    TOO_SHORT: "too_short", CONTAINED: "contained", DUPLICATE: "duplicate", NEAR_DUPLICATE: "near_duplicate",
}  # fmt: skip
_ALIKE = "alike"  # file of a shared folder: the rows that repeat an earlier one
_DECISIONS, _SOURCES = "decisions", "sources"  # files of a shared folder, each with a byte for every record


def build(
    run: Run,
    corpus: CorpusSettings,
    records: Table,
    judged: frozenset[str],
    most: int | None,
    alike: float | None = None,
) -> Table:
    """Drops records and samples sources: PASSAGES.

    Args:
        run: the run.
        corpus: rows per shard, seed of the sample.
        records: RECORDS.
        judged: ids of passages that the evaluation judges; no query is written for them.
        most: size of a random sample of sources. None: every passage that may be a source is marked, and the table
            SOURCES says which of them are used (`generation/sources/`).
        alike: Jaccard index from which two texts are the same; None compares none.

    Raises:
        InputError: two records have the same id, no passage is left, or no passage that is left may be a source.
    """
    excluded = sorted(judged) if corpus.exclude_judged_sources else []
    share = corpus.sources.share if most is not None else None
    fingerprint: dict[str, Any] = {"records": records.fingerprint, "max_sources": most, "seed": corpus.seed}
    if share is not None:
        fingerprint["share"] = share
    if alike is not None:
        fingerprint["near_duplicates"] = alike
    table = run.execute(
        Stage(
            title="corpus: passages",
            table=PASSAGES,
            path=PASSAGES.path,
            worker=PassageWorker,
            arguments={
                "storage": run.storage, "records_path": records.path, "judged": excluded,
                "max_sources": most, "seed": corpus.seed, "share": share, "alike": alike,
            },
            shards=lambda: plan_shards(records, corpus.rows_per_shard),
            fingerprint={**fingerprint, "judged": [len(excluded), _digest(excluded)]},
            pool=run.settings.io_pool,
        )
    )  # fmt: skip
    _check(table, corpus, len(excluded))
    return table


def _check(table: Table, corpus: CorpusSettings, judged: int) -> None:
    drops: Counter[str] = Counter()
    sources = 0
    for commit in table.commits():
        drops.update(commit.drops)
        sources += commit.stats.get("sources", 0)
    if not table.num_rows:
        counts = ", ".join(f"{reason} {count}" for reason, count in drops.items())
        raise InputError(
            f"corpus.path '{corpus.path}': no passage is left ({counts}). Lower corpus.min_characters "
            f"(now {corpus.min_characters}), or check corpus.text_field."
        )
    if not sources and not corpus.query_log:
        raise InputError(
            f"no passage is left to write queries for: the evaluation judges all {table.num_rows} passages "
            f"({judged} judged ids). Set corpus.exclude_judged_sources=false, or judge fewer queries."
        )


class PassageWorker:
    """Keeps or drops the records of a range, by decisions over the whole corpus.

    The first worker of a machine decides, and writes a byte for each record; all workers read these files.

    Args:
        storage: storage of the run.
        records_path: path of RECORDS.
        judged: ids of passages that are no sources.
        max_sources: most sources in the whole corpus; None: every passage that is not judged.
        seed: seed of the sample.
        share: most sources, as a share of the passages that may be sources.
        alike: Jaccard index from which two texts are the same; None compares none.

    Raises:
        InputError: two records of the corpus have the same id; names the places of both.
    """

    def __init__(
        self,
        storage: Storage,
        records_path: str,
        judged: list[str],
        max_sources: int | None,
        seed: int,
        share: float | None = None,
        alike: float | None = None,
    ) -> None:
        records = Table.open(storage, records_path)
        start = 0
        self._first_row: dict[str, int] = {}
        for file, rows in records.files():
            self._first_row[file] = start
            start += rows
        parents = ["parent_id"] if "parent_id" in records.plan.schema.names else []

        def make(folder: Path) -> None:
            columns = records.read(["passage_id", "digest", "too_short", "contained", *parents])
            _refuse_duplicate_ids(columns["passage_id"], records)
            decisions = decide(*(columns[name].to_numpy() for name in ("digest", "too_short", "contained")))
            if alike is not None:
                _drop_near_duplicates(decisions, records, alike)
            eligible = decisions == KEPT
            for name in ["passage_id", *parents] if judged else []:  # the judged may be documents, or chunks
                eligible &= ~pc.is_in(columns[name], value_set=pa.array(judged)).to_numpy(zero_copy_only=False)
            most = None if max_sources is None else how_many(int(eligible.sum()), max_sources, share)
            decisions.tofile(folder / _DECISIONS)
            (eligible if most is None else sample(eligible, most, seed)).tofile(folder / _SOURCES)

        settings = json.dumps([records.fingerprint, _digest(judged), max_sources, seed, share, alike])
        folder = shared_folder(f"passages-{hashlib.sha256(settings.encode()).hexdigest()[:16]}", make)
        self._decisions = np.fromfile(folder / _DECISIONS, np.int8)
        self._is_source = np.fromfile(folder / _SOURCES, np.bool_)

    def process(self, task: Task) -> Output:
        """Rows of PASSAGES for rows of RECORDS, and drops by reason."""
        assert task.rows is not None, "passages are planned over records"
        ranges = [
            np.arange(self._first_row[piece.file] + piece.start, self._first_row[piece.file] + piece.stop)
            for piece in task.shard.slices
        ]
        rows = np.concatenate(ranges)[task.start : task.stop]
        decisions, is_source = self._decisions[rows], self._is_source[rows]
        names = [name for name in PASSAGES.schema.names if name in task.rows.column_names]
        passages = task.rows.select(names).append_column("is_source", pa.array(is_source))
        if "parent_id" not in names:  # records of a run that began before there were documents
            passages = passages.append_column("parent_id", pa.nulls(len(passages), pa.string()))
        drops = {name: int((decisions == code).sum()) for code, name in REASONS.items() if (decisions == code).any()}
        stats = {"sources": int(is_source.sum())}
        return Output(passages.filter(pa.array(decisions == KEPT)), drops=drops, stats=stats)


def decide(digests: np.ndarray, too_short: np.ndarray, contained: np.ndarray) -> np.ndarray:
    """Decision for each of n records: KEPT, or the reason why it is dropped.

    Of several records with the same digest, the first that has no other reason is kept.

    Args:
        digests: `(n,) int64` digests of title and text.
        too_short: `(n,) bool`.
        contained: `(n,) bool`, whether a neighbouring record contains the text.

    Returns:
        `(n,) int8`.
    """
    decisions = np.where(too_short, TOO_SHORT, np.where(contained, CONTAINED, KEPT)).astype(np.int8)
    candidates = np.flatnonzero(decisions == KEPT)
    _, first = np.unique(digests[candidates], return_index=True)
    repeated = np.ones(len(candidates), dtype=bool)
    repeated[first] = False
    decisions[candidates[repeated]] = DUPLICATE
    return decisions


def _drop_near_duplicates(decisions: np.ndarray, records: Table, alike: float) -> None:
    """Marks, of the records that are kept, those whose text repeats an earlier one that stays.

    The first worker of a machine compares the texts; titles are not compared, since the same text stands under many.
    """
    rows = np.flatnonzero(decisions == KEPT)

    def texts() -> Iterator[list[str]]:
        first = 0
        for batch in records.batches(["text"]):
            here = np.flatnonzero(decisions[first : first + len(batch)] == KEPT)
            yield batch.column("text").take(pa.array(here)).to_pylist()
            first += len(batch)

    def compare(folder: Path) -> None:
        near_duplicates(texts(), alike, folder).tofile(folder / _ALIKE)
        for path in folder.iterdir():
            if path.name != _ALIKE:
                path.unlink()

    folder = shared_folder(f"alike-{records.fingerprint}-{alike}", compare)
    decisions[rows[np.fromfile(folder / _ALIKE, dtype=np.bool_)]] = NEAR_DUPLICATE


def how_many(eligible: int, most: int, share: float | None) -> int:
    """How many of the passages that may be sources are used: at most `most`, and at most a `share` if one is set."""
    return min(eligible, most if share is None else min(most, max(1, round(share * eligible))))


def sample(eligible: np.ndarray, most: int, seed: int) -> np.ndarray:
    """`(n,) bool`: at most `most` of the rows where `eligible`, `(n,) bool`, is true, drawn without replacement."""
    rows = np.flatnonzero(eligible)
    if len(rows) > most:
        rows = np.random.default_rng(seed).choice(rows, size=most, replace=False)
    chosen = np.zeros(len(eligible), dtype=bool)
    chosen[rows] = True
    return chosen


def _refuse_duplicate_ids(ids: pa.ChunkedArray, records: Table) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids)
    repeated = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    name = repeated[0].as_py()
    places = records.read(["passage_id", "place"]).filter(pc.equal(ids, name))["place"].to_pylist()
    raise InputError(
        f"passage id '{name}' occurs twice: {places[0]}, and {places[1]} ({len(repeated)} ids are repeated). "
        "Every passage needs its own id. Rename or remove one of the passages."
    )


def _digest(ids: list[str]) -> str:
    return hashlib.blake2b("\n".join(ids).encode(), digest_size=12).hexdigest()
