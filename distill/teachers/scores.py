"""Scores: one teacher scores the candidates of every query.

A query becomes a reject if the score of one of its candidates is not finite.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.schemas import SCORES
from cluster.tables.columns import list_column
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Reject, Task
from distill.encoders.encoder import LIBRARIES
from distill.retrieval.bm25 import bm25_index
from distill.retrieval.embeddings import Vectors, embed, identity
from distill.settings import MODEL_KINDS, TEXT_KINDS, EncoderSettings, TeacherSettings
from distill.teachers.base import CandidateQuery, Teacher
from distill.teachers.bi_encoder import BiEncoderTeacher
from distill.teachers.bm25 import Bm25Teacher
from distill.teachers.given import GivenScores, GivenTeacher
from distill.teachers.given_file import digest
from distill.teachers.load import load_scorer, place
from distill.teachers.pairs import PairTeacher
from distill.teachers.template import template_of

if TYPE_CHECKING:
    from cluster.run import Run


def build(
    run: Run,
    name: str,
    teacher: TeacherSettings,
    student: EncoderSettings,
    candidates: Table,
    passages: Table,
    vectors: Iterable[Vectors] = (),
) -> Table:
    """Scores all candidates with one teacher, into a table SCORES.

    Args:
        run: the run.
        name: the teacher's name in the recipe.
        teacher: settings of the teacher.
        student: encoder of a bi-encoder teacher whose settings name none.
        candidates: CANDIDATES.
        passages: PASSAGES.
        vectors: vectors of the dense retrievers. A bi-encoder teacher with the encoder of a retriever uses them. With
            another encoder, every passage and query is embedded once, into tables beside the scores.
    """
    path = SCORES.path.format(name=name)
    inputs = [candidates, passages]
    settings = teacher.model_dump(mode="json", include={"kind"})
    paths: tuple[str, str] | None = None
    own = False
    pool = place(teacher)
    if teacher.kind in MODEL_KINDS:
        settings = identity_of_model(teacher)
    elif teacher.kind == "http":
        settings = identity_of_server(teacher)
    elif teacher.kind == "given":
        settings |= {"scores": digest(str(teacher.path)), "missing": teacher.missing}
        teacher = teacher.model_copy(update={"path": str(Path(str(teacher.path)).absolute())})
    elif teacher.kind == "bi_encoder":
        encoder = teacher.encoder or student
        embedded = next((pair for pair in vectors if identity(pair.encoder) == identity(encoder)), None)
        if own := embedded is None:
            embedded = embed(run, f"{path}-vectors", name, encoder, pool, passages, [candidates])
        settings["encoder"] = identity(encoder)
        inputs += [embedded.passages, embedded.queries]
        paths = (embedded.passages.path, embedded.queries.path)
        # The workers only multiply vectors and load no model.
        pool = run.settings.io_pool
    stage = Stage(
        title=f"scores: {name}",
        table=SCORES,
        path=path,
        worker=ScoreWorker,
        arguments={
            "storage": run.storage,
            "teacher": teacher,
            "passages": passages.path,
            "vectors": paths,
            "candidates": None if own else candidates.path,
        },
        shards=plan_over_tables([candidates], teacher.rows_per_shard),
        fingerprint={**settings, "inputs": [table.fingerprint for table in inputs]},
        pool=pool,
        imports=LIBRARIES if teacher.kind in MODEL_KINDS else (),
    )
    return run.execute(stage)


def identity_of_model(teacher: TeacherSettings) -> dict[str, Any]:
    """What determines the scores of a teacher that reads texts: its model, and the template as it stands now."""
    settings = teacher.model_dump(mode="json", include={"kind", "model", "max_tokens", "dtype"})
    if teacher.revision:
        settings["revision"] = teacher.revision
    if template := template_of(teacher):
        settings["template"] = template.model_dump(mode="json", exclude={"models"})
    return settings


def identity_of_server(teacher: TeacherSettings) -> dict[str, Any]:
    """What determines the scores of a server: its model, and how it is asked. An address counts if no model is named.

    The server itself is not asked for its version: name a model that stays the same.
    """
    settings = teacher.model_dump(mode="json", include={"kind", "model", "api", "engine_args"})
    return settings if teacher.model else settings | {"base_url": teacher.base_url}


class ScoreWorker:
    """Worker that scores with one teacher.

    Args:
        storage: storage of the run.
        teacher: settings of the teacher.
        passages: path of PASSAGES.
        vectors: paths of PASSAGE_VECTORS and QUERY_VECTORS, for a bi-encoder.
        candidates: path of CANDIDATES, if QUERY_VECTORS was made from the queries; None if it was made from CANDIDATES.
    """

    def __init__(
        self,
        storage: Storage,
        teacher: TeacherSettings,
        passages: str,
        vectors: tuple[str, str] | None,
        candidates: str | None,
    ) -> None:
        tables = [Table.open(storage, path) for path in vectors or ()]
        candidate_table = Table.open(storage, candidates) if candidates else None
        self.kind = teacher.kind
        self.teacher = _load(teacher, Table.open(storage, passages), tables, candidate_table)

    def close(self) -> None:
        """Ends what the teacher has started."""
        if isinstance(self.teacher, PairTeacher) and (close := getattr(self.teacher.scorer, "close", None)):
            close()

    def process(self, task: Task) -> Output:
        """Turns rows of CANDIDATES into rows of SCORES."""
        assert task.rows is not None, "scores are planned over candidates"
        first = task.shard.params["first"] + task.start
        queries = [
            CandidateQuery(first + offset, row["query_id"], row["text"], np.array(row["passage_rows"], dtype=np.int64))
            for offset, row in enumerate(task.rows.select(["query_id", "text", "passage_rows"]).to_pylist())
        ]
        scores, tokens = self.teacher.score(queries)
        finite = [bool(np.isfinite(values).all()) for values in scores]
        accepted = [number for number, good in enumerate(finite) if good]
        lengths = np.array([len(scores[number]) for number in accepted], dtype=np.int64)
        flat = np.concatenate([scores[number] for number in accepted]) if accepted else np.empty(0, np.float32)
        accepted_rows = task.rows.take(pa.array(accepted, pa.int64()))
        rows = pa.table(
            {
                "query_id": accepted_rows.column("query_id"),
                "passage_ids": accepted_rows.column("passage_ids"),
                "scores": list_column(flat, lengths, pa.float32()),
            }
        )
        passage_ids = task.rows.column("passage_ids")
        rejects = [
            Reject(queries[number].query_id, _without_score(scores[number], passage_ids[number].as_py(), self.kind))
            for number, good in enumerate(finite)
            if not good
        ]
        stats = {"pairs": int(lengths.sum())}
        if isinstance(self.teacher, GivenTeacher) and (filled := self.teacher.take_filled()):
            stats["lowest_instead_of_missing"] = filled
        return Output(rows, rejects=rejects, tokens=tokens, stats=stats)


def _without_score(scores: np.ndarray, passage_ids: list[str], kind: str) -> str:
    bad = np.flatnonzero(~np.isfinite(scores))
    first = f"the first is that of passage '{passage_ids[bad[0]]}', {scores[bad[0]]}"
    if kind == "given":
        return (
            f"the file has no score for {len(bad)} of {len(scores)} candidates; the first is passage "
            f"'{passage_ids[bad[0]]}'. With `missing: lowest` a query that has any score would stay"
        )
    return (
        f"{len(bad)} of {len(scores)} scores are not finite; {first}. A query that leaves no room for a passage within "
        "max_tokens has no scores"
    )


def _load(settings: TeacherSettings, passages: Table, vectors: list[Table], candidates: Table | None) -> Teacher:
    if settings.kind in TEXT_KINDS:
        return PairTeacher(load_scorer(settings), RowReader(passages, ["title", "text"]))
    if settings.kind == "given":
        passage_ids = passages.read(["passage_id"]).column(0)
        return GivenTeacher(GivenScores(str(settings.path), passage_ids), settings.missing == "lowest")
    if settings.kind == "bm25":
        return Bm25Teacher(bm25_index(passages))
    ids = RowReader(passages, ["passage_id"]).range(0, passages.num_rows).column(0)
    return BiEncoderTeacher(vectors[0], ids, vectors[1], candidates)
