"""Evaluation by the workers of a pool, for a judged collection that one process would take too long to encode.

The texts of the collection become two tables, and the vectors of each model two more, all in the folder `judged/` of
the workdir. So an interrupted evaluation continues from what is encoded. The driver does the search over the vectors.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from cluster.schemas import PASSAGES, QUERY_LOG, TableSchema
from cluster.settings import PoolSettings
from cluster.tables.mapped_column import mapped_column
from cluster.tables.storage import Storage
from cluster.tables.table import Table, discard
from cluster.tables.write_table import write_table
from distill.evaluation.judged import JudgedCollection
from distill.retrieval.dense import DenseRun
from distill.retrieval.embeddings import embed
from distill.retrieval.search import Hits
from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from cluster.run import Run

FOLDER = "judged"
PASSAGES_PER_BLOCK = 65_536  # searched together


def write_collection(
    storage: Storage, collection: JudgedCollection, fingerprint: dict[str, Any]
) -> tuple[Table, Table]:
    """Writes passages and queries as tables, unless both are complete; rows are in the order of the collection."""
    texts = zip(collection.passage_ids, collection.titles, collection.texts, strict=True)
    passages = ({"passage_id": passage, "title": title, "text": text} for passage, title, text in texts)
    queries = (
        {"query_id": query, "text": text} for query, text in zip(collection.query_ids, collection.queries, strict=True)
    )
    return (
        _written(storage, f"{FOLDER}/passages", PASSAGES, passages, fingerprint),
        _written(storage, f"{FOLDER}/queries", QUERY_LOG, queries, fingerprint),
    )


def _written(
    storage: Storage, path: str, schema: TableSchema, rows: Iterable[dict[str, Any]], fingerprint: dict[str, Any]
) -> Table:
    """The table at `path`, written first unless it is complete and has this fingerprint."""
    if not _is_complete(storage, path, fingerprint):
        discard(storage, path)
        write_table(storage, path, schema, rows, fingerprint)
    return Table.open(storage, path)


def _is_complete(storage: Storage, path: str, fingerprint: dict[str, Any]) -> bool:
    try:
        table = Table.open(storage, path)
    except KeyError:
        return False
    return table.plan.fingerprint == fingerprint and table.complete


def encode_and_search(
    run: Run,
    side: str,
    model: EncoderSettings,
    pool: PoolSettings,
    collection: tuple[Table, Table],
    *,
    depth: int,
    dimensions: int | None = None,
) -> Hits:
    """The best `depth` passages of every query, by exact search.

    Args:
        run: the run whose workers encode.
        side: "base" or "student"; part of the paths of the vectors.
        model: the encoder; every worker's node must find it.
        pool: workers that encode.
        collection: passages and queries, from `write_collection`.
        depth: hits per query.
        dimensions: where embeddings are cut before they are normalised again; None: whole embeddings.

    Raises:
        InputError: the model is not there, or has fewer dimensions.
    """
    passages, queries = collection
    vectors = embed(run, f"{FOLDER}/{side}", side, model, pool, passages, [queries])
    passage_ids = mapped_column(passages, "passage_id")
    dense = DenseRun(vectors.passages, vectors.queries, passage_ids, PASSAGES_PER_BLOCK, 0, dimensions)
    return dense.search(queries.read(["query_id"]).column(0).to_pylist(), 0, depth)
