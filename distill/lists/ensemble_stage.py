"""Decides once, in the driver, how the teachers of a run are combined: the ranges of their scores, and their weights.

Weights are learnt from judged queries if the run has enough of them, else from the written ones and their sources.

All workers get the result as an argument, so all use the same statistics. It is recorded in `ensemble/record.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster.errors import InputError
from cluster.schemas import JUDGED_TYPE
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table
from distill.lists.build import split_of
from distill.lists.ensemble import Ensemble, ranges_of
from distill.lists.ensemble_reader import ScoreReader
from distill.lists.learn import SourceRanks, learn_weights
from distill.settings.ensemble import EnsembleSettings
from distill.settings.teachers import TeacherSettings

if TYPE_CHECKING:
    from cluster.run import Run

FOLDER = "ensemble"
LEARNING_QUERIES = 4_000  # at most; their candidates are looked through for quotations
LEARNING_AT_ONCE = 50  # consecutive queries that are read together
LEAST_QUERIES = 50  # in each half of the sources; fewer decide nothing
LEAST_JUDGED = 3 * LEAST_QUERIES  # so that each half has enough; with fewer, the written queries decide


@dataclass(frozen=True)
class SourceQuery:
    """A query to learn from: written for its source, or judged.

    Attributes:
        text: the query.
        source_id, source: id of its source, and position of the source among the candidates; of a judged query, the
            passage with the best grade that retrieval found.
        rows: `(C,) int64` rows of the candidates in PASSAGES.
        scores: `(C,)` raw scores of each teacher.
    """

    text: str
    source_id: str
    source: int
    rows: np.ndarray
    scores: list[np.ndarray]


def build(
    run: Run,
    settings: EnsembleSettings,
    teachers: Mapping[str, TeacherSettings],
    scores: Mapping[str, Table],
    candidates: Table,
    passages: Table,
    seed: int = 0,
    folder: str = FOLDER,
) -> Ensemble:
    """How the teachers' scores become one. Nothing is read or recorded where all is given by the recipe.

    Args:
        run: the run.
        settings: scale, way to combine, whether weights are learnt.
        teachers: the teachers, by name.
        scores: SCORES of each teacher, by the same names.
        candidates: CANDIDATES.
        passages: PASSAGES.
        seed: seed by which sources are halved for learnt weights.
        folder: where it is recorded.

    Raises:
        InputError: no query has scores of all teachers, or a teacher that is to be scaled scores all passages alike.
    """
    names = list(teachers)
    given = Ensemble(tuple(teachers[name].weight for name in names), settings.combine)
    if settings.scale == "none" and settings.weights == "given":
        return given
    tables = [scores[name] for name in names]

    def decide() -> dict[str, Any]:
        reader = ScoreReader(tables)
        sample = reader.sample(candidates.num_rows)
        try:
            scaled = replace(given, ranges=ranges_of(settings, names, list(sample.values())))
        except ValueError as error:
            raise InputError(
                f"ensemble.scale: {error}, so its scores have no range. Leave the teacher out, or set scale: none."
            ) from None
        learnt: dict[str, Any] | None = None
        weights = given.weights
        if settings.weights == "learnt":
            queries = read_judged_queries(reader, candidates)
            are_judged = len(queries) >= LEAST_JUDGED
            if not are_judged:
                queries = read_source_queries(reader, candidates, passages)
            weights, learnt = learn(queries, scaled, seed)
            learnt["judged"] = are_judged
        return {"teachers": names, "ensemble": replace(scaled, weights=weights).record(), "learnt": learnt}

    fingerprint = {
        "ensemble": settings.model_dump(mode="json"),
        "weights": dict(zip(names, given.weights, strict=True)),
        **({"seed": seed} if settings.weights == "learnt" else {}),
        "inputs": [candidates.fingerprint, passages.fingerprint, *(table.fingerprint for table in tables)],
    }
    record = run.execute_in_process(folder, fingerprint, decide, title="ensemble")
    if (learnt := record["learnt"]) is not None:
        run.progress.say(f"weights of the teachers: {in_words(learnt)}")
    return Ensemble.from_record(record["ensemble"])


def learn(queries: Iterable[SourceQuery], ensemble: Ensemble, seed: int) -> tuple[tuple[float, ...], dict[str, Any]]:
    """Weights that are learnt on one half of the sources and tried on the other; and a record of that, as JSON.

    The learnt weights count if their mean reciprocal rank on the other half is not below that of the given ones.

    Args:
        queries: queries that no candidate quotes.
        ensemble: the given weights, and how scores are combined.
        seed: seed of the halves.

    Returns:
        The weights that count. The record: `queries`, `held_out` (numbers of queries), `given`, `learnt` (for each
        `weights` and the mean reciprocal ranks `learning` and `held_out`; None if there are too few queries), `kept`
        ("given" or "learnt").
    """
    halves: dict[str, list[SourceQuery]] = {"train": [], "dev": []}
    for query in queries:
        halves[split_of(f"weights {query.source_id}", 0.5, seed)].append(query)
    record: dict[str, Any] = {"queries": len(halves["train"]), "held_out": len(halves["dev"]), "kept": "given"}
    record |= {"given": {"weights": list(ensemble.weights)}, "learnt": None}
    if min(len(half) for half in halves.values()) < LEAST_QUERIES:
        return ensemble.weights, record
    learning, held_out = (
        SourceRanks([ensemble.parts(query.scores) for query in half], [query.source for query in half])
        for half in halves.values()
    )
    learnt = learn_weights(learning, ensemble.weights)
    for name, weights in (("given", ensemble.weights), ("learnt", learnt)):
        record[name] = {
            "weights": list(weights),
            "learning": learning.mean_reciprocal_rank(weights),
            "held_out": held_out.mean_reciprocal_rank(weights),
        }
    is_kept = record["learnt"]["held_out"] >= record["given"]["held_out"]
    record["kept"] = "learnt" if is_kept else "given"
    return (learnt if is_kept else ensemble.weights), record


def in_words(learnt: Mapping[str, Any]) -> str:
    """What was gained by learning, as a sentence; the argument is the record of `learn`."""
    if learnt["learnt"] is None:
        return (
            f"the given ones are kept, since only {learnt['queries'] + learnt['held_out']} queries of the sample are "
            f"quoted by no candidate; {2 * LEAST_QUERIES} or more are needed."
        )
    before, after = learnt["given"]["held_out"], learnt["learnt"]["held_out"]
    of, what = ("judged queries", "relevant passage") if learnt.get("judged") else ("queries", "source")
    return (
        f"on {learnt['held_out']:,} {of} of held-out sources, the mean reciprocal rank of the {what} is {after:.4f} "
        f"with the learnt ones and {before:.4f} with the given ones; the {learnt['kept']} ones are kept."
    )


def read_source_queries(reader: ScoreReader, candidates: Table, passages: Table) -> list[SourceQuery]:
    """At most `LEARNING_QUERIES` queries with one source among their candidates, and quoted by none of these.

    An extractive query quotes its source, which then wins by the quotation and not by what it says.
    """
    sample = reader.sample(candidates.num_rows, LEARNING_QUERIES, LEARNING_AT_ONCE)
    found = []
    for batch in candidates.batches():
        for row in batch.filter(_is_in(batch.column("query_id"), sample)).to_pylist():
            if row["source_id"] not in row["passage_ids"] or row.get("second_source_id") is not None:
                continue
            source, rows = row["passage_ids"].index(row["source_id"]), np.array(row["passage_rows"], dtype=np.int64)
            found.append(SourceQuery(row["text"], row["source_id"], source, rows, sample[row["query_id"]]))
    if len(found) > LEARNING_QUERIES:
        found = [found[number] for number in np.linspace(0, len(found) - 1, LEARNING_QUERIES).astype(int)]
    is_quoted = quoted([query.text for query in found], [query.rows for query in found], passages)
    return [query for query, is_out in zip(found, is_quoted, strict=True) if not is_out]


def read_judged_queries(reader: ScoreReader, candidates: Table) -> list[SourceQuery]:
    """At most `LEARNING_QUERIES` judged queries; none if the run has none."""
    columns = ["query_id", "query_type", "text", "source_id", "passage_ids", "passage_rows"]
    rows = RowReader(candidates, columns, budget_bytes=0)
    numbers = judged_rows(candidates)
    if len(numbers) > LEARNING_QUERIES:
        numbers = numbers[np.linspace(0, len(numbers) - 1, LEARNING_QUERIES).astype(int)]
    found = []
    for part in np.array_split(numbers, -(-len(numbers) // LEARNING_AT_ONCE)) if len(numbers) else ():
        scores = reader.read(int(part[0]), int(part[-1]) + 1)
        for row in rows.take(part).to_pylist():
            if row["query_id"] in scores:
                source, of_query = row["passage_ids"].index(row["source_id"]), scores[row["query_id"]]
                at = np.array(row["passage_rows"], dtype=np.int64)
                found.append(SourceQuery(row["text"], row["source_id"], source, at, of_query))
    return found


def judged_rows(candidates: Table) -> np.ndarray:
    """(J,) int64 numbers of the rows of CANDIDATES that are judged queries."""
    parts, first = [], 0
    for batch in candidates.batches(["query_type"]):
        is_of_people = pc.equal(batch.column("query_type"), JUDGED_TYPE).to_numpy()
        parts.append(first + np.flatnonzero(is_of_people))
        first += batch.num_rows
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def quoted(queries: Sequence[str], rows: Sequence[np.ndarray], passages: Table) -> list[bool]:
    """For each query, whether one of its passages contains it word for word, whatever the case and the white space.

    Every file of PASSAGES is read at most once.

    Args:
        queries: texts of the queries.
        rows: `(C,) int64` rows of each query's candidates in PASSAGES.
        passages: PASSAGES.
    """
    result = [False] * len(queries)
    wanted = [collapsed(query) for query in queries]
    owners = np.repeat(np.arange(len(rows)), [len(of_query) for of_query in rows])
    flat = np.concatenate(rows) if rows else np.empty(0, np.int64)
    reader = RowReader(passages, ["title", "text"], budget_bytes=0)
    for number, (start, stop) in enumerate(zip(reader.starts[:-1], reader.starts[1:], strict=True)):
        is_here = (flat >= start) & (flat < stop)
        if not is_here.any():
            continue
        unique, positions = np.unique(flat[is_here], return_inverse=True)
        texts = reader.file(number).take(unique - start).to_pylist()
        here = [collapsed(f"{text['title'] or ''} {text['text']}") for text in texts]
        for query, position in zip(owners[is_here].tolist(), positions.tolist(), strict=True):
            result[query] = result[query] or wanted[query] in here[position]
    return result


def collapsed(text: str) -> str:
    """The text casefolded, with single spaces."""
    return " ".join(text.casefold().split())


def _is_in(column: Any, wanted: Mapping[str, Any]) -> Any:
    return pc.is_in(column, value_set=pa.array(list(wanted), pa.string()))
