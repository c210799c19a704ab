"""A judged collection that the pool's workers encode, for one that a single process would take too long over.

Its texts become two tables, every model's vectors two more, all below `judged/` in the workdir, so an evaluation that
is cut continues where it was. The search over the vectors is the driver's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.schemas import PASSAGES, QUERY_LOG
from cluster.settings import PoolSettings
from cluster.tables.storage import Storage
from cluster.tables.table import Table, discard
from cluster.tables.write_table import write_table
from distill.evaluation.judged import Judged
from distill.retrieval.dense import DenseRun
from distill.retrieval.embeddings import embed
from distill.retrieval.search import Hits
from distill.settings import EncoderSettings

if TYPE_CHECKING:
    from cluster.run import Run

FOLDER = "judged"
PASSAGES_PER_BLOCK = 65_536  # searched together


def write_collection(storage: Storage, collection: Judged, fingerprint: dict[str, Any]) -> tuple[Table, Table]:
    """Writes passages and queries as tables, unless they are there; returns both, in the order of the collection."""
    passages, queries = f"{FOLDER}/passages", f"{FOLDER}/queries"
    texts = zip(collection.passage_ids, collection.titles, collection.texts, strict=True)
    asked = zip(collection.query_ids, collection.queries, strict=True)
    for path, schema, rows in (
        (passages, PASSAGES, ({"passage_id": p, "title": title, "text": text} for p, title, text in texts)),
        (queries, QUERY_LOG, ({"query_id": query, "text": text} for query, text in asked)),
    ):
        if not _is_there(storage, path, fingerprint):
            discard(storage, path)
            write_table(storage, path, schema, rows, fingerprint)
    return Table.open(storage, passages), Table.open(storage, queries)


def _is_there(storage: Storage, path: str, fingerprint: dict[str, Any]) -> bool:
    try:
        table = Table.open(storage, path)
    except KeyError:
        return False
    return table.plan.fingerprint == fingerprint and table.complete


def find(
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
        run: on whose cluster.
        side: "base" or "student", which names the vectors.
        model: the encoder; every worker's node must find it.
        pool: workers that encode.
        collection: passages and queries, of `write_collection`.
        depth: hits per query.
        dimensions: where embeddings are cut, then normalised again; whole ones when empty.

    Raises:
        InputError: the model is not there, or has fewer dimensions.
    """
    passages, queries = collection
    vectors = embed(run, f"{FOLDER}/{side}", side, model, pool, passages, [queries])
    passage_ids: pa.ChunkedArray = passages.read(["passage_id"]).column(0)
    dense = DenseRun(vectors.passages, vectors.queries, passage_ids, PASSAGES_PER_BLOCK, 0, dimensions)
    return dense.search(queries.read(["query_id"]).column(0).to_pylist(), 0, depth)
