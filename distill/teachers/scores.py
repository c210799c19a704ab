"""Scores: one teacher scores the candidates of every query.

A query becomes a reject if the score of one of its candidates is not finite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.schemas import SCORES
from cluster.tables.columns import list_column
from cluster.tables.mapped_column import mapped_column
from cluster.tables.plan_shards import plan_over_tables
from cluster.tables.row_reader import RowReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Reject, Task
from distill.encoders.encoder import LIBRARIES
from distill.retrieval.bm25 import bm25_index
from distill.retrieval.embeddings import Vectors, embed, identity
from distill.settings.encoders import EncoderSettings
from distill.settings.retrieval import RetrievalSettings
from distill.settings.teachers import MODEL_KINDS, TEXT_KINDS, TeacherSettings
from distill.teachers import given_file, http_api, kept_scores
from distill.teachers.base import CandidateQuery, Teacher
from distill.teachers.bi_encoder import BiEncoderTeacher
from distill.teachers.bm25 import Bm25Teacher
from distill.teachers.given import GivenScores, GivenTeacher
from distill.teachers.load import load_scorer, place, takes_vllm
from distill.teachers.pairs import PairTeacher, close
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
    retrieval: RetrievalSettings,
    vectors: Mapping[str, Vectors],
    weights: str = "",
) -> Table:
    """Scores all candidates with one teacher, into a table SCORES.

    Args:
        run: the run.
        name: the teacher's name in the recipe.
        teacher: settings of the teacher; those of bm25 name language and tokenizer, or are those of its retriever.
        student: encoder of a bi-encoder teacher whose settings name none.
        candidates: CANDIDATES.
        passages: PASSAGES.
        retrieval: the retrievers that proposed the candidates.
        vectors: vectors of the dense retrievers, by their names. A bi-encoder teacher with the encoder of a retriever
            uses them, and the scores that this retriever gave. With another encoder, every passage and query is
            embedded once, into tables beside the scores.
        weights: digest of the weights of a model that the run has made; it then stands for the model's path, so that
            the workdir can be moved.
    """
    path = SCORES.path.format(name=name)
    inputs = [candidates, passages]
    settings = teacher.model_dump(mode="json", include={"kind"})
    paths: tuple[str, str] | None = None
    own = False
    retriever: str | None = None
    kept: str | None = None
    pool = place(teacher)
    if teacher.kind in MODEL_KINDS:
        settings = identity_of_model(teacher) | ({"model": weights} if weights else {})
    elif teacher.kind == "http":
        settings = http_api.identity(teacher)
    elif teacher.kind == "given":
        settings |= {"scores": given_file.digest(str(teacher.path)), "missing": teacher.missing}
        teacher = teacher.model_copy(update={"path": str(Path(str(teacher.path)).absolute())})
    elif teacher.kind == "bm25":
        teacher, retriever = as_retriever(teacher, retrieval)
        settings |= teacher.reads()
    elif teacher.kind == "bi_encoder":
        encoder = teacher.encoder or student
        retriever = next((name for name, pair in vectors.items() if identity(pair.encoder) == identity(encoder)), None)
        embedded = vectors[retriever] if retriever else None
        if own := embedded is None:
            embedded = embed(run, f"{path}-vectors", name, encoder, pool, passages, [candidates])
        settings["encoder"] = identity(encoder)
        inputs += [embedded.passages, embedded.queries]
        paths = (embedded.passages.path, embedded.queries.path)
        # The workers only multiply vectors and load no model.
        pool = run.settings.io_pool
    known: list[str] = []
    if teacher.kind in MODEL_KINDS or (teacher.kind == "http" and teacher.model):  # a server may change its model
        kept = kept_scores.folder_of(settings | ({} if weights else kept_scores.state_of(teacher.model)))
        known = [] if _is_done(run, path) else kept_scores.files_of(run.storage, kept)
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
            "retriever": retriever,
            "kept": (kept, known) if kept else None,
        },
        shards=lambda: plan_over_tables([candidates], teacher.rows_per_shard),
        fingerprint={**settings, "inputs": [table.fingerprint for table in inputs]},
        pool=pool,
        many_threads=teacher.kind in MODEL_KINDS and takes_vllm(teacher),
        imports=LIBRARIES if teacher.kind in MODEL_KINDS else (),
    )
    table = run.execute(stage)
    if known:
        pairs, found = (sum(one.stats.get(key, 0) for one in table.commits()) for key in ("pairs", "known_pairs"))
        if found:
            run.progress.say(f"scores: {name}: {found:,} of {pairs:,} pairs are known from an earlier run")
    return table


def _is_done(run: Run, path: str) -> bool:
    try:
        return run.table(path).sealed()
    except KeyError:
        return False


def identity_of_model(teacher: TeacherSettings) -> dict[str, Any]:
    """What determines the scores of a teacher that reads texts: its model, and the template as it stands now."""
    settings = teacher.model_dump(mode="json", include={"kind", "model", "max_tokens", "dtype"})
    if teacher.revision:
        settings["revision"] = teacher.revision
    if template := template_of(teacher):
        settings["template"] = template.model_dump(mode="json", exclude={"models"})
    return settings


def as_retriever(teacher: TeacherSettings, retrieval: RetrievalSettings) -> tuple[TeacherSettings, str | None]:
    """A bm25 teacher with its language and tokenizer, and the retriever that scores as it does, or None.

    A teacher that names neither takes both from the first bm25 retriever.
    """
    sparse = {name: each for name, each in retrieval.retrievers.items() if each.kind == "bm25"}
    if sparse and not (teacher.language or teacher.tokenizer):
        first = next(iter(sparse.values()))
        teacher = teacher.model_copy(update={"language": first.language, "tokenizer": first.tokenizer})
    return teacher, next((name for name, each in sparse.items() if each.reads() == teacher.reads()), None)


class ScoreWorker:
    """Worker that scores with one teacher.

    Args:
        storage: storage of the run.
        teacher: settings of the teacher.
        passages: path of PASSAGES.
        vectors: paths of PASSAGE_VECTORS and QUERY_VECTORS, for a bi-encoder.
        candidates: path of CANDIDATES, if QUERY_VECTORS was made from the queries; None if it was made from CANDIDATES.
        retriever: a retriever that scores as this teacher does, so that its scores need not be computed again.
        kept: where scores of pairs are kept, and the files that were there at the start; None: nowhere.
    """

    def __init__(
        self,
        storage: Storage,
        teacher: TeacherSettings,
        passages: str,
        vectors: tuple[str, str] | None,
        candidates: str | None,
        retriever: str | None = None,
        kept: tuple[str, Sequence[str]] | None = None,
    ) -> None:
        self.retriever = retriever
        self.storage, self.folder = storage, kept[0] if kept else None
        known = kept_scores.KeptScores(storage, *kept) if kept else None
        tables = [Table.open(storage, path) for path in vectors or ()]
        candidate_table = Table.open(storage, candidates) if candidates else None
        self.kind = teacher.kind
        self.teacher = _load(teacher, Table.open(storage, passages), tables, candidate_table, known)

    def close(self) -> None:
        """Ends what the teacher has started."""
        if isinstance(self.teacher, PairTeacher):
            close(self.teacher.scorer)

    def process(self, task: Task) -> Output:
        """Turns rows of CANDIDATES into rows of SCORES."""
        assert task.rows is not None, "scores are planned over candidates"
        first = task.shard.params["first"] + task.start
        known = self._known(task.rows)
        queries = [
            CandidateQuery(
                first + offset, row["query_id"], row["text"], np.array(row["passage_rows"], np.int64), known[offset]
            )
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
        if isinstance(self.teacher, PairTeacher) and self.folder:
            keys, new, stats["known_pairs"] = self.teacher.take_new()
            kept_scores.keep(self.storage, self.folder, f"{task.shard.name}-{task.start}", keys, new)
        if isinstance(self.teacher, GivenTeacher) and (filled := self.teacher.take_filled()):
            stats["lowest_instead_of_missing"] = filled
        return Output(rows, rejects=rejects, tokens=tokens, stats=stats)

    def _known(self, rows: pa.Table) -> Sequence[np.ndarray | None]:
        """For each query, the (C,) float32 scores of the retriever that scores alike; None without such a retriever."""
        if self.retriever is None:
            return [None] * len(rows)
        lists = pc.map_lookup(rows.column("retriever_scores"), pa.scalar(self.retriever), "first")
        return [values.values.to_numpy(zero_copy_only=False) for values in lists]


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


def _load(
    settings: TeacherSettings,
    passages: Table,
    vectors: list[Table],
    candidates: Table | None,
    known: kept_scores.KeptScores | None,
) -> Teacher:
    if settings.kind in TEXT_KINDS:
        return PairTeacher(load_scorer(settings), RowReader(passages, ["title", "text"]), known)
    if settings.kind == "given":
        ids = mapped_column(passages, "passage_id")
        return GivenTeacher(GivenScores(str(settings.path), ids), settings.missing == "lowest")
    if settings.kind == "bm25":
        return Bm25Teacher(bm25_index(passages, settings))
    return BiEncoderTeacher(vectors[0], mapped_column(passages, "passage_id"), vectors[1], candidates)
