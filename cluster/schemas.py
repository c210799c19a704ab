"""The data dictionary: every table of a run, its columns, and who writes it.

The tables stand in the order in which the data passes through them. A table is a set of Parquet shards plus their
commit records (`cluster/tables/table.py`). The module named in `writer` makes its rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class TableSchema:
    """Columns of a table, its unit, and the module that writes it.

    `path` may hold the placeholder `{name}`, which stands for a retriever or a teacher. `unit` is what the table
    accounts for: every planned unit becomes a row, a counted drop or a reject.
    """

    path: str
    schema: pa.Schema
    writer: str
    unit: str


def _table(path: str, unit: str, writer: str, *columns: tuple[str, pa.DataType]) -> TableSchema:
    return TableSchema(path, pa.schema([pa.field(name, kind) for name, kind in columns]), writer, unit)


DOCUMENTS = _table(
    "documents", "input document", "generation.documents.stage",
    ("document_id", pa.string()),    # path in the folder, or id of the record
    ("place", pa.string()),          # file, or file and line, for error messages
    ("chunks", pa.list_(pa.struct([("title", pa.string()), ("text", pa.string())]))),
)  # fmt: skip

RECORDS = _table(
    "records", "input record", "generation.records",
    ("passage_id", pa.string()),
    ("title", pa.string()),          # NFKC-normalised
    ("text", pa.string()),           # NFKC-normalised, cut at corpus.max_characters
    ("digest", pa.int64()),          # of title and text, the key of exact duplicates
    ("place", pa.string()),          # file and line of the record, for error messages
    ("too_short", pa.bool_()),       # shorter than corpus.min_characters
    ("contained", pa.bool_()),       # its text is part of a neighbouring record's text
    ("parent_id", pa.string()),      # the document that it is a chunk of; null of a whole record
)  # fmt: skip

PASSAGES = _table(
    "passages", "input record", "generation.passages",
    ("passage_id", pa.string()),
    ("title", pa.string()),
    ("text", pa.string()),
    ("is_source", pa.bool_()),       # whether queries may be written for it; if SOURCES exists, it says which are
    ("parent_id", pa.string()),      # the document that it is a chunk of; null of a whole record
)  # fmt: skip

CHOSEN = _table(
    "chosen", "passage", "generation.sources.choice",
    ("passage_id", pa.string()),
    ("row", pa.int64()),             # row number of the passages table
    ("cluster", pa.int32()),         # of the base embedding; null where no clusters were made
)  # fmt: skip

SOURCES = _table(
    "sources", "source", "generation.sources.stage",
    ("passage_id", pa.string()),
    ("title", pa.string()),
    ("text", pa.string()),
    ("neighbour_id", pa.string()),   # the nearest passage that is no copy; null where none is near, or none was wanted
    ("neighbour_title", pa.string()),
    ("neighbour_text", pa.string()),
)  # fmt: skip

QUERIES = _table(
    "queries", "source × type × sample", "generation.queries",
    ("query_id", pa.string()),       # source:type:sample, and @1 of a second section of the recipe (`section_of`)
    ("source_id", pa.string()),      # passage the query was written for; null for a query log
    ("query_type", pa.string()),     # name of a type, "log" or "judged"
    ("text", pa.string()),
    ("sample", pa.int32()),
    ("second_source_id", pa.string()),   # the other passage, if the query needs two; else null
)  # fmt: skip

# Those of the second section of a recipe, the third and so on, whose `name` is its number: 1, 2, …
MORE_QUERIES = TableSchema("more_queries/{name}", QUERIES.schema, "generation.queries", "source × type × sample")
PILOT = TableSchema("pilot", QUERIES.schema, "generation.sources.budget", "source × type × sample")

LOG_TYPE = "log"  # the query type of logged queries
JUDGED_TYPE = "judged"  # and of judged ones

DISTINCT = TableSchema("distinct", QUERIES.schema, "generation.distinct", "query")

GRADES = TableSchema(
    "grades",
    # by criterion of the rubric, from 0 to 1; null where the query was not judged
    QUERIES.schema.append(pa.field("grades", pa.map_(pa.string(), pa.float32()))),
    "generation.judging.stage",
    "query",
)

APPROVED = TableSchema("approved", QUERIES.schema, "generation.judging.verdict", "query")

QUERY_LOG = TableSchema("query_log", QUERIES.schema, "generation.query_log", "logged query")

JUDGED_QUERIES = TableSchema(
    "judged_queries",
    # ids in PASSAGES, the best grade first; the first is the source, until another is the first that retrieval finds
    QUERIES.schema.append(pa.field("relevant_ids", pa.list_(pa.string()))),
    "launcher.judged_queries",
    "judged query",
)

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
    ("second_source_id", pa.string()),
    # by retriever: its own scores of the same passages, null where it did not return the passage
    ("retriever_scores", pa.map_(pa.string(), pa.list_(pa.float32()))),
)  # fmt: skip

ENCODER_CHECKS = _table(
    "checks/{name}", "encoder", "distill.encoders.check_stage",
    ("dimension", pa.int64()),
    ("similarity", pa.string()),                # "cosine" or "dot"
    ("query_prompt", pa.string()),
    ("passage_prompt", pa.string()),
    ("query_tokens", pa.int64()),               # most tokens that are read of a query
    ("passage_tokens", pa.int64()),
    ("cosine", pa.float64()),                   # least cosine between our vector of a text and the library's
    ("remarks", pa.list_(pa.string())),         # what a person should know, each in a sentence
)  # fmt: skip

LANGUAGE_MODEL_CHECKS = _table(
    "checks/{name}", "language model", "generation.checks.stage",
    ("context", pa.int64()),                    # tokens that it holds; null: its configuration does not say it
    ("styles", pa.list_(pa.string())),          # of prompts that its tokenizer can write: "chat", "completion"
    ("weights", pa.int64()),                    # found in its files; null: not compared with what it needs
)  # fmt: skip

PROBES = _table(
    "probes/{name}", "pair", "distill.teachers.probe_stage",
    ("right", pa.float64()),                    # share of comparisons with the matching passage first
    ("own_text", pa.float64()),                 # the same with the query's own text as the passage
    ("distinct", pa.float64()),                 # share of scores that differ from all others
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
    # of the dev split: every passage that was scored and may stand in a list, by descending score; else empty
    ("dev_rows", pa.list_(pa.int64())),
    ("dev_scores", pa.list_(pa.float32())),     # normalised as the scores of the list are
)  # fmt: skip

# Stages in their order, with the names that `--until` and `--overwrite` take, and each stage's folders in the workdir.
STAGES: dict[str, tuple[str, ...]] = {
    "corpus": ("checks", "probes", "documents", "records", "passages"),
    "queries": ("query_log", "judged_queries", "chosen", "sources", "pilot", "queries", "more_queries", "distinct"),
    "grades": ("grades",),
    "approved": ("approved",),
    "embeddings": ("embeddings",),
    "candidates": ("candidates",),
    "scores": ("teachers", "scores"),
    "lists": ("agreement", "ensemble", "lists"),  # another teacher changes them, and no score that is there
    "training": ("training", "model"),
    "evaluation": ("evaluation", "judged"),
}

# Scores of pairs outlive their tables (`distill/teachers/kept_scores.py`). They go when the stage itself is done again,
# and stay when an earlier one is.
KEPT_SCORES = "kept_scores"
KEPT: dict[str, tuple[str, ...]] = {"scores": (KEPT_SCORES,)}

MARKER = "versions.json"  # the first file of a run; a workdir with this file belongs to a run
ONE_PROCESS_STAGES = ("training", "evaluation")  # they run once, in one process; the other stages run over shards


def stage_of(path: str) -> str:
    """The stage that a folder or table of the workdir belongs to; a folder of no stage counts as a stage itself."""
    top = path.split("/", maxsplit=1)[0]
    return next((stage for stage, folders in STAGES.items() if top in folders), top)


def section_of(query_id: str) -> int:
    """Number of the recipe's section that wrote a synthetic query; 0 is the first, or the only one."""
    return int(query_id.rpartition(":")[2].partition("@")[2] or 0)
