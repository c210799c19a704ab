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
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import CANDIDATES
from cluster.tables.columns import list_column, map_of_lists_column
from cluster.tables.commit import drops_of
from cluster.tables.mapped_column import mapped_column
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.lists.relevance import is_judged
from distill.retrieval.bm25 import Bm25Index, bm25_index
from distill.retrieval.dense import DenseRun
from distill.retrieval.fusion import reciprocal_rank_fusion
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
        queries = task.rows.to_pylist()
        first = task.shard.params["first"] + task.start
        hits = [self._search(run, queries, first) for run in self.runs]
        drops: Counter[str] = Counter()
        rows: list[dict[str, Any]] = []
        for number, query in enumerate(queries):
            fused, scores = reciprocal_rank_fusion([run.rows[number] for run in hits], self.settings.rrf_k)
            if self.is_left_out is not None:
                stays = ~self.is_left_out[fused]
                fused, scores = fused[stays], scores[stays]
            fused, scores = fused[: self.settings.depth], scores[: self.settings.depth]
            ids = self.passage_ids.take(pa.array(fused)).to_pylist()
            source = _source(query, ids)
            found = ids[: self.settings.round_trip_rank]
            if is_judged(query):
                found = ids  # people said what answers it, so that it need not be found near the top
            if any(one is not None and one not in found for one in (source, query.get("second_source_id"))):
                drops["judged_not_found" if is_judged(query) else "round_trip"] += 1
            elif len(fused) < self.settings.min_candidates:
                drops["few_candidates"] += 1
            else:
                rows.append(
                    {
                        "query_id": query["query_id"],
                        "source_id": source,
                        "query_type": query["query_type"],
                        "text": query["text"],
                        "passage_ids": ids,
                        "passage_rows": fused,
                        "fused": scores,
                        "second_source_id": query.get("second_source_id"),
                        "retriever_scores": np.array([run.scores_of(number, fused) for run in hits]),
                    }
                )
        return Output(_table(rows, self.names), drops=dict(drops), stats=self._recall() if first == 0 else {})

    def _recall(self) -> dict[str, int]:
        """Counters `nearest_NAME` and `found_NAME` of each approximate retriever, from a sample of all queries."""
        stats = {}
        for name, run in zip(self.names, self.runs, strict=True):
            if isinstance(run, DenseRun) and (counts := run.recall(RECALL_QUERIES, self.settings.depth)):
                stats[f"found_{name}"], stats[f"nearest_{name}"] = counts
        return stats

    def _search(self, run: Bm25Index | DenseRun, queries: list[dict[str, Any]], first: int) -> Hits:
        if isinstance(run, Bm25Index):
            return run.search([query["text"] for query in queries], self.settings.depth)
        return run.search([query["query_id"] for query in queries], first, self.settings.depth)


def _source(query: dict[str, Any], candidates: list[str]) -> str | None:
    """Id of a query's source; of a judged query that of the best relevant passage among the candidates."""
    relevant = query.get("relevant_ids") or []
    return next((one for one in relevant if one in candidates), query["source_id"])


def _table(rows: list[dict[str, Any]], retrievers: list[str]) -> pa.Table:
    lengths = np.array([len(row["passage_ids"]) for row in rows], dtype=np.int64)
    columns: list[pa.Array] = []
    for field in CANDIDATES.schema:
        values = [row[field.name] for row in rows]
        if field.name == "retriever_scores":
            columns.append(map_of_lists_column(retrievers, values, pa.float32()))
        elif not pa.types.is_list(field.type) or field.name == "passage_ids":
            columns.append(pa.array(values, type=field.type))
        else:
            flat = np.concatenate(values) if values else np.empty(0)
            columns.append(list_column(flat, lengths, field.type.value_type))
    return pa.Table.from_arrays(columns, schema=CANDIDATES.schema)
