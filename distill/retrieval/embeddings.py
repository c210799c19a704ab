"""Embeddings: every passage and every query of the run becomes a vector, one pair of tables per dense retriever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from cluster.schemas import PASSAGE_VECTORS, QUERY_VECTORS
from cluster.settings import PoolSettings
from cluster.tables.columns import list_column
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Reject, Task
from distill.encoders.encoder import LIBRARIES
from distill.encoders.token_counter import TokenCounter
from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from cluster.run import Run

PASSAGES_PER_SHARD = 2_048
QUERIES_PER_SHARD = 4_096


@dataclass(frozen=True)
class Vectors:
    """Vectors of one encoder: the tables PASSAGE_VECTORS and QUERY_VECTORS."""

    encoder: EncoderSettings
    passages: Table
    queries: Table


def build(
    run: Run, name: str, encoder: EncoderSettings, pool: PoolSettings, passages: Table, query_tables: Sequence[Table]
) -> Vectors:
    """Embeds all passages and all queries for the retriever `name`.

    Args:
        run: the run.
        name: the retriever's name in the recipe.
        encoder: its model.
        pool: number of workers, and the CPUs and GPUs of each.
        passages: PASSAGES.
        query_tables: tables with `query_id` and `text`; one table holds their vectors, in the same order.
    """
    return embed(run, f"embeddings/{name}", name, encoder, pool, passages, query_tables)


def embed(
    run: Run,
    folder: str,
    name: str,
    encoder: EncoderSettings,
    pool: PoolSettings,
    passages: Table,
    query_tables: Sequence[Table],
) -> Vectors:
    """Embeds as `build` does, into the tables `folder`/passages and `folder`/queries."""
    passage_vectors = embed_passages(run, folder, name, encoder, pool, passages)
    queries = _embed(run, f"{folder}/queries", f"{name}, queries", "queries", encoder, pool, query_tables)
    return Vectors(encoder, passage_vectors, queries)


def embed_passages(
    run: Run, folder: str, name: str, encoder: EncoderSettings, pool: PoolSettings, passages: Table
) -> Table:
    """Embeds all passages into the table `folder`/passages. What is embedded before `embed` is found done by it."""
    return _embed(run, f"{folder}/passages", f"{name}, passages", "passages", encoder, pool, [passages])


def embed_log(run: Run, folder: str, name: str, encoder: EncoderSettings, pool: PoolSettings, log: Table) -> Table:
    """Embeds the query log alone into the table `folder`/query_log, before there are other queries."""
    return _embed(run, f"{folder}/query_log", f"{name}, query log", "queries", encoder, pool, [log])


def _embed(
    run: Run,
    path: str,
    title: str,
    side: Literal["passages", "queries"],
    encoder: EncoderSettings,
    pool: PoolSettings,
    tables: Sequence[Table],
) -> Table:
    is_passages = side == "passages"
    return run.execute(
        Stage(
            title=f"embeddings: {title}",
            table=PASSAGE_VECTORS if is_passages else QUERY_VECTORS,
            path=path,
            worker=EmbeddingWorker,
            arguments={"encoder": encoder, "side": side},
            shards=lambda: plan_over_tables(tables, PASSAGES_PER_SHARD if is_passages else QUERIES_PER_SHARD),
            fingerprint={"encoder": identity(encoder), "side": side, "inputs": [table.fingerprint for table in tables]},
            pool=pool,
            imports=LIBRARIES,
        )
    )


def identity(encoder: EncoderSettings) -> dict[str, Any]:
    """Settings of an encoder that determine its vectors. The size of a batch is not among them.

    The model's own pooling is left out, so that vectors from before the field stay.
    """
    fields = encoder.identity(mode="json", exclude={"batch_tokens"})
    if encoder.pooling == "auto":
        del fields["pooling"]
    return fields


class EmbeddingWorker:
    """Worker that embeds the rows of a shard; a text whose vector is not finite becomes a reject."""

    def __init__(self, encoder: EncoderSettings, side: Literal["passages", "queries"]) -> None:
        from distill.encoders.encoder import Encoder

        self.side = side
        self.encoder = Encoder(encoder)
        self.tokens = TokenCounter(self.encoder.model[0])

    def process(self, task: Task) -> Output:
        """Turns rows of PASSAGES, or of a table with `query_id` and `text`, into rows (id, vector)."""
        assert task.rows is not None, "embeddings are planned over tables"
        texts = task.rows.column("text").to_pylist()
        if self.side == "passages":
            ids = task.rows.column("passage_id").to_pylist()
            vectors = self.encoder.encode_passages(task.rows.column("title").to_pylist(), texts)
        else:
            ids = task.rows.column("query_id").to_pylist()
            vectors = self.encoder.encode_queries(texts)
        finite = np.isfinite(vectors).all(axis=1)
        accepted = np.flatnonzero(finite)
        lengths = np.full(len(accepted), vectors.shape[1])
        column = list_column(vectors[accepted].reshape(-1), lengths, pa.float32())
        rows = pa.Table.from_arrays([pa.array([ids[row] for row in accepted], pa.string()), column], ["id", "vector"])
        rejects = [Reject(ids[row], "the encoder gave a vector that is not finite") for row in np.flatnonzero(~finite)]
        return Output(rows, rejects=rejects, tokens=self.tokens.take())
