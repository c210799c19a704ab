"""The sources stage: the passages that queries are written for, in the order of their use, and the neighbour of each.

Not every recipe needs it. A random sample for queries over one passage is marked in PASSAGES, as nothing else has to
be known for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.schemas import SOURCES
from cluster.tables.plan_shards import plan_shards
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.tables.vectors import rows_of_vectors, vectors_of
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.query_types import QueryType, load_types, per_source
from generation.settings import CorpusSettings, GenerationSettings
from generation.sources import choice
from generation.sources.neighbours import is_copy, nearest
from generation.sources.settings import NeighbourSettings

if TYPE_CHECKING:
    from cluster.run import Run

SOURCES_PER_SHARD = 2048  # every shard reads the vectors of all passages; at ten million it takes some ten minutes
_CACHED_TEXT = 256 << 20  # bytes


def asks_for_neighbours(types: Mapping[str, QueryType]) -> bool:
    """Whether any of the query types is written over two passages."""
    return any(kind.hops == 2 for kind in types.values())


def most_sources(corpus: CorpusSettings, generation: GenerationSettings) -> int:
    """The largest number of sources; a budget in hours may lower it when the engine's speed is known."""
    budget = generation.budget
    if budget is None or budget.queries is None:
        return corpus.max_sources
    return min(corpus.max_sources, max(1, int(budget.queries / per_source(generation, load_types(generation)))))


def needs_vectors(corpus: CorpusSettings, generation: GenerationSettings) -> bool:
    """Whether passages are embedded before queries are written."""
    return corpus.sources.needs_vectors or asks_for_neighbours(load_types(generation))


def sample_size(corpus: CorpusSettings, generation: GenerationSettings) -> int | None:
    """Size of the random sample that PASSAGES marks; None where SOURCES is needed."""
    in_hours = generation.budget is not None and generation.budget.in_hours
    if corpus.sources.by != "random" or in_hours or needs_vectors(corpus, generation):
        return None
    return most_sources(corpus, generation)


def build(
    run: Run,
    corpus: CorpusSettings,
    generation: GenerationSettings,
    passages: Table,
    vectors: Table | None,
    log_vectors: Table | None,
) -> Table:
    """Makes SOURCES.

    Args:
        run: the run.
        corpus: which passages, and how many.
        generation: the query types; whether neighbours are looked for, and which passages are some.
        passages: PASSAGES, in which every passage that may be a source is marked.
        vectors: PASSAGE_VECTORS of the base model, where `needs_vectors`.
        log_vectors: vectors of the query log, where sources are chosen by it.

    Raises:
        InputError: as `generation.sources.choice.build`.
    """
    most = most_sources(corpus, generation)
    by_vectors = vectors if corpus.sources.needs_vectors else None
    chosen = choice.build(run, corpus.sources, most, corpus.seed, passages, by_vectors, log_vectors)
    near = generation.neighbours if asks_for_neighbours(load_types(generation)) else None
    fingerprint: dict[str, Any] = {"chosen": chosen.fingerprint, "neighbours": near and near.model_dump(mode="json")}
    if near:
        assert vectors is not None, "the pipeline embeds the passages first"
        fingerprint["vectors"] = vectors.plan.fingerprint
    return run.execute(
        Stage(
            title="sources",
            table=SOURCES,
            path=SOURCES.path,
            worker=SourceWorker,
            arguments={
                "storage": run.storage,
                "passages": passages.path,
                "vectors": vectors.path if vectors and near else None,
                "neighbours": near,
            },
            shards=lambda: plan_shards(chosen, SOURCES_PER_SHARD),
            fingerprint=fingerprint,
            pool=run.settings.io_pool,
        )
    )


class SourceWorker:
    """Brings the texts of chosen passages together, and looks for their neighbours.

    Args:
        storage: storage of the run.
        passages: path of PASSAGES.
        vectors: path of PASSAGE_VECTORS; None: no neighbours are looked for.
        neighbours: which passages are some.
    """

    def __init__(
        self, storage: Storage, passages: str, vectors: str | None, neighbours: NeighbourSettings | None
    ) -> None:
        table = Table.open(storage, passages)
        self._texts = RowReader(table, ["passage_id", "title", "text"], _CACHED_TEXT)
        self._limits = neighbours
        if vectors is not None:
            columns = table.read(["passage_id", "is_source"])
            self._eligible = columns["is_source"].to_numpy()
            self._vectors = RowReader(Table.open(storage, vectors), ["vector"], budget_bytes=0)
            rows = rows_of_vectors(self._vectors.table, columns["passage_id"])
            self._vector_rows = np.arange(len(columns), dtype=np.int64) if rows is None else rows

    def process(self, task: Task) -> Output:
        """Rows of CHOSEN to rows of SOURCES."""
        assert task.rows is not None, "sources are planned over chosen passages"
        rows = task.rows["row"].to_numpy()
        own = self._texts.take(rows)
        neighbours: list[dict[str, Any] | None] = [None] * len(rows)
        if self._limits is not None:
            neighbours = self._neighbours(rows, own.to_pylist(), self._limits)
        columns = [own["passage_id"], own["title"], own["text"]]
        for name in ("passage_id", "title", "text"):
            columns.append(pa.chunked_array([pa.array([one and one[name] for one in neighbours], pa.string())]))
        found = sum(one is not None for one in neighbours)
        stats = {"with_neighbour": found} if self._limits else {}
        return Output(pa.Table.from_arrays(columns, schema=SOURCES.schema), stats=stats)

    def _neighbours(
        self, rows: np.ndarray, own: list[dict[str, Any]], limits: NeighbourSettings
    ) -> list[dict[str, Any] | None]:
        """The nearest passage of each that is no copy of it, or None."""
        places = np.searchsorted(self._vector_rows, rows)
        places = np.minimum(places, len(self._vector_rows) - 1)
        known = np.flatnonzero(self._vector_rows[places] == rows)  # the others were rejected by the encoder
        if not len(known):
            return [None] * len(rows)
        asked = vectors_of(self._vectors.take(places[known])["vector"])
        near = nearest(asked, rows[known], self._blocks(), self._eligible, limits)
        wanted = np.unique(near[near >= 0])
        texts = dict(zip(wanted.tolist(), self._texts.take(wanted).to_pylist(), strict=True)) if len(wanted) else {}
        found: list[dict[str, Any] | None] = [None] * len(rows)
        for place, candidates in zip(known.tolist(), near.tolist(), strict=True):
            near_texts = [texts[row] for row in candidates if row >= 0]
            found[place] = next((one for one in near_texts if not is_copy(own[place]["text"], one["text"])), None)
        return found

    def _blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number in range(len(self._vectors.files)):
            first, stop = self._vectors.starts[number : number + 2].tolist()
            if stop > first:
                yield self._vector_rows[first:stop], vectors_of(self._vectors.file(number)["vector"])
