"""Candidates: every retriever proposes passages for every query, and the runs of a query are fused into one.

A synthetic query is dropped if its source passage is not among the top ranks (round-trip consistency, as in
Promptagator, arXiv 2209.11755). A query over two passages must find both: one that finds only one of them asks for it
alone. Sources stay among the candidates; the stage `lists` decides whether to use them.

Each retriever's own scores of the candidates are kept, so that a teacher that scores as a retriever does need not
compute them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import CANDIDATES, JUDGED_TYPE
from cluster.tables.columns import list_column, map_of_lists_column
from cluster.tables.commit import drops_of
from cluster.tables.mapped_column import mapped_column
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.retrieval.bm25 import Bm25Index, bm25_index
from distill.retrieval.dense import DenseRun
from distill.retrieval.fusion import Fused, reciprocal_rank_fusion
from distill.retrieval.search import Hits
from distill.settings.retrieval import RetrievalSettings

if TYPE_CHECKING:
    from cluster.run import Run
    from distill.retrieval.embeddings import Vectors


RECALL_QUERIES = 200  # searched exactly too, once in a run, to tell what an approximate index misses


def build(
    run: Run,
    retrieval: RetrievalSettings,
    vectors: dict[str, Vectors],
    passages: Table,
    query_tables: Sequence[Table],
    judged: frozenset[str] = frozenset(),
) -> Table:
    """Retrieves, fuses and filters candidates for all queries, into the table CANDIDATES.

    Args:
        run: the run.
        retrieval: retrievers, depth, filters.
        vectors: vectors of each dense retriever, by its name; their queries are those of `query_tables`.
        passages: PASSAGES.
        query_tables: QUERIES, QUERY_LOG and JUDGED_QUERIES, those that exist.
        judged: ids of passages that the evaluation judges; left out if `retrieval.leave_out_judged` says so.

    Raises:
        InputError: the filters drop every query; the text counts the drops of each filter.
    """
    retrievers = {
        name: (vectors[name].passages.path, vectors[name].queries.path) if retriever.kind == "dense" else None
        for name, retriever in retrieval.retrievers.items()
    }
    dense = [vectors[name] for name, paths in retrievers.items() if paths]
    inputs = [passages, *query_tables, *(table for pair in dense for table in (pair.passages, pair.queries))]
    settings = retrieval.model_dump(mode="json", include={"depth", "rrf_k", "round_trip_rank", "min_candidates"})
    left_out = sorted(judged) if retrieval.leave_out_judged else []
    if retrieval.leave_out_judged:
        settings["left_out"] = [
            len(left_out),
            hashlib.blake2b(json.dumps(left_out).encode(), digest_size=8).hexdigest(),
        ]
    stage = Stage(
        title="candidates",
        table=CANDIDATES,
        path=CANDIDATES.path,
        worker=CandidateWorker,
        arguments={
            "storage": run.storage,
            "passages": passages.path,
            "retrievers": retrievers,
            "settings": retrieval,
            "left_out": left_out,
        },
        shards=lambda: plan_over_tables(query_tables, retrieval.rows_per_shard),
        fingerprint={
            **settings,
            "retriever_scores": True,  # tables from before this column are made anew
            "retrievers": {name: retriever.identity() for name, retriever in retrieval.retrievers.items()},
            "inputs": [table.fingerprint for table in inputs],
        },
        pool=run.settings.io_pool,
    )
    table = run.execute(stage)
    if not table.num_rows:
        drops = drops_of(table.commits())
        of_judged = ""
        if found := drops["judged_not_found"]:
            of_judged = f"judged_not_found took {found} (nothing that people judged relevant is among the candidates; "
            of_judged += "raise retrieval.depth) and "
        raise InputError(
            f"no query is left after retrieval: of {sum(drops.values())} queries, "
            f"round_trip took {drops['round_trip']} (their source is not among the first "
            f"{retrieval.round_trip_rank} passages; raise retrieval.round_trip_rank) and "
            f"{of_judged}few_candidates took {drops['few_candidates']} (they have fewer than "
            f"{retrieval.min_candidates} passages; lower retrieval.min_candidates and lists.length). Then run again "
            "with --overwrite candidates."
        )
    return table


class CandidateWorker:
    """Worker that searches, fuses and filters; it holds the BM25 index and blocks of passage vectors.

    Args:
        storage: storage of the run.
        passages: path of PASSAGES.
        retrievers: by name, the paths of PASSAGE_VECTORS and QUERY_VECTORS of a dense retriever, or None for BM25.
        settings: depth, filters, memory.
        left_out: ids of passages that never become candidates.
    """

    def __init__(
        self,
        storage: Storage,
        passages: str,
        retrievers: dict[str, tuple[str, str] | None],
        settings: RetrievalSettings,
        left_out: Sequence[str] = (),
    ) -> None:
        self.settings = settings
        table = Table.open(storage, passages)
        self.passage_ids: pa.ChunkedArray = mapped_column(table, "passage_id")
        self.names = list(retrievers)
        left_out_ids = pa.array(left_out, self.passage_ids.type)
        self.is_left_out = pc.is_in(self.passage_ids, value_set=left_out_ids).to_numpy() if left_out else None
        if self.is_left_out is not None and "parent_id" in table.plan.schema.names:  # the judged may be documents
            self.is_left_out |= pc.is_in(mapped_column(table, "parent_id"), value_set=left_out_ids).to_numpy()
        self.runs: list[Bm25Index | DenseRun] = []
        dense = sum(paths is not None for paths in retrievers.values())
        for name, paths in retrievers.items():
            if paths is None:
                self.runs.append(bm25_index(table, settings.retrievers[name]))
                continue
            budget = settings.index_cache_mib * 2**20 // dense
            tables = [Table.open(storage, path) for path in paths]
            retriever = settings.retrievers[name]
            self.runs.append(
                DenseRun(tables[0], tables[1], self.passage_ids, settings.index_rows, budget, retriever=retriever)
            )

    def process(self, task: Task) -> Output:
        """Turns rows of QUERIES, QUERY_LOG or JUDGED_QUERIES into rows of CANDIDATES."""
        assert task.rows is not None, "candidates are planned over tables"
        queries = task.rows.combine_chunks()
        first = task.shard.params["first"] + task.start
        fused = self._fuse([self._search(run, queries, first) for run in self.runs])
        ids = self.passage_ids.take(pa.array(fused.rows)).combine_chunks()
        counts = fused.counts(len(queries))
        sources = _sources(queries, ids, counts)

        # People said what answers a judged query, so that it need not be found near the top.
        judged = _flags(pc.equal(queries["query_type"], JUDGED_TYPE))
        near = (fused.ranks < self.settings.round_trip_rank) | judged[fused.queries]
        missed = np.zeros(len(queries), dtype=bool)
        for wanted in (sources, queries["second_source_id"]):
            is_wanted = _flags(pc.equal(ids, wanted.take(pa.array(fused.queries)))) & near
            missed |= _flags(pc.is_valid(wanted)) & (np.bincount(fused.queries[is_wanted], minlength=len(queries)) == 0)
        few = ~missed & (counts < self.settings.min_candidates)
        drops = {
            "round_trip": int((missed & ~judged).sum()),
            "judged_not_found": int((missed & judged).sum()),
            "few_candidates": int(few.sum()),
        }
        rows = _table(queries.set_column(_place(queries, "source_id"), "source_id", sources), fused, ids, self.names)
        return Output(
            rows.filter(pa.array(~missed & ~few)),
            drops={reason: count for reason, count in drops.items() if count},
            stats=self._recall() if first == 0 else {},
        )

    def _fuse(self, hits: Sequence[Hits]) -> Fused:
        """The candidates of all queries, without passages that must be none."""
        fused = reciprocal_rank_fusion(hits, self.settings.rrf_k)
        if self.is_left_out is not None:
            fused = fused.where(~self.is_left_out[fused.rows])
        return fused.where(fused.ranks < self.settings.depth)

    def _recall(self) -> dict[str, int]:
        """Counters `nearest_NAME` and `found_NAME` of each approximate retriever, from a sample of all queries."""
        stats = {}
        for name, run in zip(self.names, self.runs, strict=True):
            if isinstance(run, DenseRun) and (counts := run.recall(RECALL_QUERIES, self.settings.depth)):
                stats[f"found_{name}"], stats[f"nearest_{name}"] = counts
        return stats

    def _search(self, run: Bm25Index | DenseRun, queries: pa.Table, first: int) -> Hits:
        if isinstance(run, Bm25Index):
            return run.search(queries["text"].to_pylist(), self.settings.depth)
        return run.search(queries["query_id"].to_pylist(), first, self.settings.depth)


def _sources(queries: pa.Table, ids: pa.Array, counts: np.ndarray) -> pa.ChunkedArray:
    """Id of each query's source; of a judged query that of the best relevant passage among its candidates.

    Args:
        queries: rows of one of the tables of queries.
        ids: ids of the candidates of all queries, one query after the other.
        counts: `(Q,) int64` candidates of each query.
    """
    if "relevant_ids" not in queries.column_names:
        return queries["source_id"]
    sources = queries["source_id"].to_pylist()
    start = 0
    for number, (relevant, count) in enumerate(zip(queries["relevant_ids"].to_pylist(), counts.tolist(), strict=True)):
        found = set(ids[start : start + count].to_pylist())
        sources[number] = next((one for one in relevant or () if one in found), sources[number])
        start += count
    return pa.chunked_array([pa.array(sources, pa.string())])


def _flags(values: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Arrow booleans as numpy's; null is False."""
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)


def _place(table: pa.Table, column: str) -> int:
    return table.schema.get_field_index(column)


def _table(queries: pa.Table, fused: Fused, ids: pa.Array, retrievers: Sequence[str]) -> pa.Table:
    """CANDIDATES of all queries; of a query without any candidate too."""
    counts = fused.counts(len(queries))
    columns = {
        "passage_ids": list_column(ids, counts, pa.string()),
        "passage_rows": list_column(fused.rows, counts, pa.int64()),
        "fused": list_column(fused.scores, counts, pa.float32()),
        "retriever_scores": map_of_lists_column(retrievers, fused.own, counts, pa.float32()),
    }
    names = CANDIDATES.schema.names
    return pa.table([columns[name] if name in columns else queries[name] for name in names], names)
