"""Judged queries that the student may learn from: a split of a BEIR folder whose passages are those of the corpus.

They are real queries with the passages that answer them, so they go beside the written ones: retrievers propose
candidates, teachers score them, and the lists put what was judged relevant first. What the evaluation judges is left
out, queries as well as passages.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import JUDGED_QUERIES, JUDGED_TYPE
from cluster.tables.commit import drops_of
from cluster.tables.dropped import Dropped
from cluster.tables.mapped_column import mapped_column
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.evaluation import judged
from distill.evaluation.qrels import Qrels, read_qrels
from generation.masking import Personal, is_only_masks, mask
from generation.query_log import asked_text
from generation.settings import CorpusSettings, JudgedQuerySettings

if TYPE_CHECKING:
    from cluster.run import Run

_WHY = {
    "evaluated": "the evaluation judges the same query",
    "evaluated_passage": "the evaluation judges every passage that is relevant to them",
    "not_relevant": "no passage has the least grade",
    "unknown_passage": "the corpus has none of their passages",
    "whole_document": "their passage was cut, and nobody said which piece answers",
    "only_personal": "nothing is left beside what names a person",
}


def check(settings: JudgedQuerySettings | None) -> None:
    """Looks that folder and split exist and hold a judgement that counts, before anything is started.

    Raises:
        InputError: something is missing or malformed; names file and line.
    """
    if settings is None:
        return
    folder = Path(settings.dataset).expanduser()
    qrels = read_qrels(folder, settings.split)
    judged.judged_queries(folder, settings.split, qrels)
    if not _relevant(qrels, settings.least_grade):
        best = max(grade for grades in qrels.values() for grade in grades.values())
        raise InputError(
            f"corpus.judged_queries: no grade of {folder}, {settings.split}, is {settings.least_grade} or more; the "
            f"best is {best}. Lower least_grade."
        )


def build(
    run: Run, corpus: CorpusSettings, passages: Table, evaluated: Mapping[str, str], evaluated_passages: Collection[str]
) -> Table | None:
    """Reads the judged queries of a recipe into JUDGED_QUERIES; None if it names none.

    Args:
        run: the run.
        corpus: names the folder, and says what is masked.
        passages: PASSAGES.
        evaluated: id and text of the queries that the evaluation judges.
        evaluated_passages: ids of the passages that it judges.

    Raises:
        InputError: the folder has mistakes, or none of its queries can be used; says what took how many.
    """
    settings = corpus.judged_queries
    if settings is None:
        return None
    folder = Path(settings.dataset).expanduser().absolute()
    qrels = _relevant(read_qrels(folder, settings.split), settings.least_grade)
    texts = judged.judged_queries(folder, settings.split)
    content = json.dumps([texts, qrels], ensure_ascii=False).encode()
    left_out = sorted(evaluated_passages) if corpus.exclude_judged_sources else []
    avoided = [sorted(evaluated), sorted({asked_text(text) for text in evaluated.values()}), left_out]
    table = run.execute(
        Stage(
            title="judged queries",
            table=JUDGED_QUERIES,
            path=JUDGED_QUERIES.path,
            worker=JudgedQueryWorker,
            arguments={
                "storage": run.storage,
                "passages": passages.path,
                "settings": settings.model_copy(update={"dataset": str(folder)}),
                "masked": corpus.query_log_mask,
                "regions": corpus.query_log_phone_regions,
                "evaluated": avoided,
            },
            shards=_shards(len(texts), corpus.rows_per_shard),
            fingerprint={
                "judged_queries": hashlib.sha256(content).hexdigest(),
                "mask": sorted(corpus.query_log_mask),
                "phone_regions": corpus.query_log_phone_regions,
                "evaluated": hashlib.sha256(json.dumps(avoided).encode()).hexdigest(),
                "inputs": [passages.fingerprint],
            },
            pool=run.settings.io_pool,
        )
    )
    drops = drops_of(table.commits())
    told = "; ".join(f"{count} are left out, since {_WHY[reason]}" for reason, count in drops.most_common() if count)
    if not table.num_rows:
        raise InputError(
            f"corpus.judged_queries: no query of {folder}, {settings.split}, can be used: {told}. The ids of its "
            "passages must be those of corpus.path. Correct the folder, or leave judged_queries out."
        )
    run.progress.say(f"judged queries: {table.num_rows} teach" + (f"; {told}" if told else ""))
    return table


def _relevant(qrels: Qrels, least_grade: int) -> dict[str, list[str]]:
    """Query id → ids of its relevant passages, the best grade first; of equal ones in the order of the file."""
    relevant = {
        query: sorted((one for one in grades if grades[one] >= least_grade), key=lambda one: -grades[one])
        for query, grades in qrels.items()
    }
    return {query: passages for query, passages in relevant.items() if passages}


def _shards(queries: int, rows_per_shard: int) -> list[Shard]:
    starts = range(0, queries, rows_per_shard)
    return [
        Shard(f"{number:05d}", min(rows_per_shard, queries - start), params={"first": start})
        for number, start in enumerate(starts)
    ]


class JudgedQueryWorker:
    """Turns judged queries, by their numbers in the order of the judgements, into rows of JUDGED_QUERIES.

    Args:
        storage: storage of the run.
        passages: path of PASSAGES.
        settings: folder, split, and the grade from which a passage is relevant.
        masked, regions: what is masked, as in the query log.
        evaluated: ids of the queries that the evaluation judges, their texts as `asked_text` has them, and ids of the
            passages that must not teach.
    """

    def __init__(
        self,
        storage: Storage,
        passages: str,
        settings: JudgedQuerySettings,
        masked: Sequence[Personal],
        regions: Sequence[str],
        evaluated: tuple[Sequence[str], Sequence[str], Sequence[str]],
    ) -> None:
        folder = Path(settings.dataset)
        self.masked, self.regions = masked, regions
        self.evaluated_ids, self.evaluated_texts, self.evaluated_passages = map(frozenset, evaluated)
        self.queries = list(judged.judged_queries(folder, settings.split).items())
        self.relevant = _relevant(read_qrels(folder, settings.split), settings.least_grade)
        wanted = {passage for ids in self.relevant.values() for passage in ids}
        self.pieces = dict(_pieces(Table.open(storage, passages), wanted))

    def process(self, task: Task) -> Output:
        """Rows of JUDGED_QUERIES; a query that cannot teach is dropped with a reason."""
        first = task.shard.params["first"]
        rows: list[dict[str, Any]] = []
        dropped: list[Dropped] = []
        counts: Counter[Personal] = Counter()
        for key, written in self.queries[first + task.start : first + task.stop]:
            text, masks = mask(" ".join(written.split()), self.masked, self.regions)
            counts += masks
            relevant, reason = self._teaches(key, written)
            if reason is None and masks and is_only_masks(text):
                reason = "only_personal"
            if reason:
                dropped.append(Dropped(f"{JUDGED_TYPE}:{key}", reason, text))
                continue
            row = {"query_id": f"{JUDGED_TYPE}:{key}", "source_id": relevant[0], "query_type": JUDGED_TYPE}
            rows.append(row | {"text": text, "sample": 0, "relevant_ids": relevant})
        drops = Counter(query.reason for query in dropped)
        stats = {f"masked_{kind}": count for kind, count in counts.items()}
        return Output(
            pa.Table.from_pylist(rows, schema=JUDGED_QUERIES.schema), dict(drops), stats=stats, dropped=dropped
        )

    def _teaches(self, key: str, text: str) -> tuple[list[str], str | None]:
        """Ids in PASSAGES of what is relevant, the best first; or the reason why the query teaches nothing."""
        if key in self.evaluated_ids or asked_text(text) in self.evaluated_texts:
            return [], "evaluated"
        named = self.relevant.get(key, [])
        if not named:
            return [], "not_relevant"
        free = [one for one in named if one not in self.evaluated_passages]
        if not free:
            return [], "evaluated_passage"
        known = [one for one in free if one in self.pieces]
        whole = [self.pieces[one][0] for one in known if len(self.pieces[one]) == 1]
        if not whole:
            return [], "whole_document" if known else "unknown_passage"
        return whole, None


def _pieces(passages: Table, wanted: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Judged id, and the ids of the passages that it names: its own, or those that a document was cut into."""
    names = pa.array(sorted(wanted), pa.string())
    ids = mapped_column(passages, "passage_id")
    own = set(ids.filter(pc.is_in(ids, value_set=names)).to_pylist())
    yield from ((one, [one]) for one in own)
    if "parent_id" not in passages.plan.schema.names:
        return
    parents = mapped_column(passages, "parent_id")
    is_wanted = pc.is_in(parents, value_set=names)
    cut: dict[str, list[str]] = {}
    for parent, piece in zip(parents.filter(is_wanted).to_pylist(), ids.filter(is_wanted).to_pylist(), strict=True):
        cut.setdefault(parent, []).append(piece)
    yield from ((one, pieces) for one, pieces in cut.items() if one not in own)
