"""The data dictionary: every table of a run, its columns, and who writes it.

Read from top to bottom this is the whole way of the data. A table is a set of Parquet shards plus their commit
records (`cluster/tables/table.py`); how its rows are made is the business of the module named in `writer`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class TableSchema:
    """Columns of a table and the module that writes it. `path` may hold one placeholder, the retriever or teacher."""

    path: str
    schema: pa.Schema
    writer: str
    unit: str


def _table(path: str, unit: str, writer: str, *columns: tuple[str, pa.DataType]) -> TableSchema:
    return TableSchema(path, pa.schema([pa.field(name, kind) for name, kind in columns]), writer, unit)


RECORDS = _table(
    "records", "input record", "generation.records",
    ("passage_id", pa.string()),
    ("title", pa.string()),          # NFKC-normalised
    ("text", pa.string()),           # NFKC-normalised, cut at corpus.max_characters
    ("digest", pa.int64()),          # of title and text, the key of exact duplicates
    ("place", pa.string()),          # file and line the record came from, for messages
    ("too_short", pa.bool_()),       # under corpus.min_characters
    ("contained", pa.bool_()),       # its text stands inside a neighbouring record
)  # fmt: skip

PASSAGES = _table(
    "passages", "input record", "generation.passages",
    ("passage_id", pa.string()),
    ("title", pa.string()),
    ("text", pa.string()),
    ("is_source", pa.bool_()),       # may queries be written for it
)  # fmt: skip

QUERIES = _table(
    "queries", "source × type × sample", "generation.queries",
    ("query_id", pa.string()),
    ("source_id", pa.string()),      # passage the query was written for; null for a query log
    ("query_type", pa.string()),     # name of a type, or "log"
    ("text", pa.string()),
    ("sample", pa.int32()),
)  # fmt: skip

DISTINCT = TableSchema("distinct", QUERIES.schema, "generation.distinct", "query")

QUERY_LOG = TableSchema("query_log", QUERIES.schema, "generation.query_log", "logged query")

PASSAGE_VECTORS = _table(
    "embeddings/{name}/passages", "passage", "distill.retrieval.embeddings",
    ("id", pa.string()),
    ("vector", pa.list_(pa.float32())),
)  # fmt: skip

QUERY_VECTORS = TableSchema(
    "embeddings/{name}/queries", PASSAGE_VECTORS.schema, "distill.retrieval.embeddings", "query"
)

CANDIDATES = _table(
    "candidates", "query", "distill.retrieval.candidates",
    ("query_id", pa.string()),
    ("source_id", pa.string()),
    ("query_type", pa.string()),
    ("text", pa.string()),
    ("passage_ids", pa.list_(pa.string())),     # by descending fused score
    ("passage_rows", pa.list_(pa.int64())),     # the same passages as row numbers of the passages table
    ("fused", pa.list_(pa.float32())),          # reciprocal rank fusion scores
)  # fmt: skip

SCORES = _table(
    "scores/{name}", "query", "distill.teachers.scores",
    ("query_id", pa.string()),
    ("passage_ids", pa.list_(pa.string())),     # in the order of the candidates table
    ("scores", pa.list_(pa.float32())),         # the teacher's raw scores
)  # fmt: skip

LISTS = _table(
    "lists", "query", "distill.lists.stage",
    ("query_id", pa.string()),
    ("query_type", pa.string()),
    ("text", pa.string()),
    ("passage_rows", pa.list_(pa.int64())),     # by descending teacher score
    ("scores", pa.list_(pa.float32())),         # normalised to 0…1 over the whole run
    ("split", pa.string()),                     # "train" or "dev", by source
    ("left_out_row", pa.int64()),               # the source, where it was left out of its own list, else null
)  # fmt: skip

# Stages in order, as `--until` and `--overwrite` name them, and the folders of the workdir that belong to each.
STAGES: dict[str, tuple[str, ...]] = {
    "corpus": ("records", "passages"),
    "queries": ("queries", "distinct", "query_log"),
    "embeddings": ("embeddings",),
    "candidates": ("candidates",),
    "scores": ("scores",),
    "lists": ("lists",),
    "training": ("training", "model"),
    "evaluation": ("evaluation", "judged"),
}

ONE_PROCESS_STAGES = ("training", "evaluation")  # stages that are done in one piece; the others are tables over shards


def stage_of(path: str) -> str:
    """The stage that a folder or table of the workdir belongs to; a folder of its own is its own stage."""
    top = path.split("/", maxsplit=1)[0]
    return next((stage for stage, folders in STAGES.items() if top in folders), top)
