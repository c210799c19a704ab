"""`listwise teachers`: judges the teachers of a recipe as rerankers of the same candidates, beside the student's base.

A student learns what its teachers rank. A teacher that ranks judged queries no better than the student does already
has nothing to teach, and this tells so in minutes. It needs no run and no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.errors import InputError
from cluster.tables.records import read_recipe, read_record
from cluster.tables.storage import Storage
from cluster.watch.progress import Progress
from distill.encoders.encoder import Encoder
from distill.encoders.texts import passage_text
from distill.evaluation import judged
from distill.evaluation.comparison import METRIC
from distill.evaluation.judged import JudgedCollection
from distill.evaluation.metrics import SPARE_HITS, evaluate_hits, own_passages
from distill.lists.ensemble import Ensemble, ranges_of
from distill.retrieval.bm25 import Bm25Index, text_settings
from distill.retrieval.fusion import reciprocal_rank_fusion
from distill.retrieval.search import Block, Hits, search
from distill.settings.retrieval import Bm25Settings
from distill.settings.teachers import TeacherSettings
from distill.statistics import Difference, paired_difference
from distill.teachers.in_memory import Collection, score_pairs
from generation.language.detect import SAMPLE, detect
from generation.language.names import AUTO, language_code
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe

PASSAGES_AT_ONCE = 512  # encoded between two updates of the progress bar
BASE = "base alone"
FUSED = "fused candidates"
ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Row:
    """One ranking of the judged queries.

    Attributes:
        name: the teacher, or one of BASE, FUSED and ENSEMBLE.
        ndcg: mean nDCG@10.
        difference: paired difference to the base; None for the base.
        seconds: scoring time of one query; None for what scores nothing itself.
    """

    name: str
    ndcg: float
    difference: Difference | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Judgement:
    """All rankings, and what they are made of.

    Attributes:
        queries, passages: sizes of the judged collection.
        depth: most candidates of a query.
        ideal: nDCG@10 of the best possible order of the candidates.
        rows: the base first, the ensemble last.
        notes: what else a reader has to know.
    """

    queries: int
    passages: int
    depth: int
    ideal: float
    rows: list[Row]
    notes: list[str]


def open_recipe(source: str, changes: Sequence[str] = ()) -> tuple[Recipe, Ensemble | None]:
    """The recipe of a workdir, finished or not, or of a recipe file; and the ensemble of the run, if it is decided.

    Raises:
        InputError: there is no such recipe or run, or the recipe has mistakes.
    """
    if "://" not in source and not Path(source).expanduser().is_dir():
        return load_recipe(source, changes), None
    storage = Storage(source)
    try:
        recipe = Recipe.model_validate(read_recipe(storage))
    except KeyError:
        raise InputError(
            f"{source} holds no run (no recipe.yaml in it); expected the workdir of a run, or a recipe file"
        ) from None
    if changes:
        raise InputError("--set changes a recipe file, and this is the workdir of a run; name the recipe file instead")
    record = read_record(storage, "ensemble/record.json")
    if record is None:
        return recipe, None
    is_of_all = record["teachers"] == list(_judged_here(recipe))
    return recipe, Ensemble.from_record(record["ensemble"]) if is_of_all else None


def judge(
    recipe: Recipe,
    dataset: str | Path,
    split: str = "test",
    *,
    queries: int | None = None,
    depth: int = 100,
    ensemble: Ensemble | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Judgement:
    """Judges every teacher of a recipe, and all together, as rerankers; and the student's base as a retriever.

    The candidates of a query are the same for all teachers: the first `depth` of the base's exact search, fused with
    BM25. A judged passage that is the query itself is no candidate.

    Args:
        recipe: student and teachers.
        dataset: BEIR folder.
        split: name of the qrels file.
        queries: judge on a sample of this many queries, drawn with `seed`.
        depth: most candidates of a query.
        ensemble: how a run combines its teachers; None: as the recipe says, with ranges over these candidates.
        seed: seed of the sample and of the bootstrap.
        progress: where progress is shown.

    Raises:
        InputError: the collection or a model cannot be read, or a teacher cannot be scaled.
    """
    progress = progress or Progress()
    judged_collection = judged.read(dataset, split, queries, seed)
    for note in judged_collection.notes:
        progress.say(note)
    collection = _encode(recipe, judged_collection, progress)
    vectors = Block.of(np.arange(len(collection.passages), dtype=np.int64), collection.passages)
    found = search(collection.queries, [vectors], depth + SPARE_HITS)
    words = collection.index.search(judged_collection.queries, depth + SPARE_HITS)
    candidates = fused_candidates(found, words, own_passages(judged_collection), depth)

    def ndcg(hits: Hits) -> np.ndarray:
        values = evaluate_hits(judged_collection, hits, depth).per_query[METRIC]
        return np.array([values[query] for query in judged_collection.query_ids])

    base = ndcg(found)
    rows = [Row(BASE, float(base.mean()))]

    def add(name: str, scores: Sequence[np.ndarray], seconds: float | None) -> None:
        values = ndcg(reranked(candidates, scores))
        rows.append(Row(name, float(values.mean()), paired_difference(base, values, seed), seconds))

    add(FUSED, [-np.arange(len(of_query), dtype=np.float32) for of_query in candidates], None)
    scored: dict[str, list[np.ndarray]] = {}
    for name, teacher in _judged_here(recipe).items():
        with progress.task(f"teacher {name}", len(judged_collection.queries), "queries") as handle:
            result = score_pairs(name, teacher, judged_collection.queries, candidates, collection, handle.advance)
        scored[name] = result.scores
        add(name, result.scores, result.seconds / len(judged_collection.queries))
    notes = [
        f"Teacher {name} is left out here: it is made in a run, which judges it on held-out sources."
        for name, teacher in recipe.teachers.items()
        if teacher.kind == "adapted"
    ]
    notes += [
        f"Teacher {name} is left out here: its file has the scores of a run's queries."
        for name, teacher in recipe.teachers.items()
        if teacher.kind == "given"
    ]
    if len(scored) > 1:
        per_query = [list(of_query) for of_query in zip(*scored.values(), strict=True)]
        ensemble = ensemble or _ensemble(recipe, per_query, notes)
        add(ENSEMBLE, [ensemble.scores(of_query) for of_query in per_query], None)
    return Judgement(
        len(judged_collection.queries), len(judged_collection.passage_ids), depth,
        float(ndcg(reranked(candidates, _grades(judged_collection, candidates))).mean()), rows, notes,
    )  # fmt: skip


def fused_candidates(found: Hits, words: Hits, own: Mapping[int, int], depth: int) -> list[np.ndarray]:
    """`(C,) int64` candidates of each query: two runs fused by reciprocal rank, without the query itself, cut at depth.

    Args:
        found, words: hits of the dense search and of BM25, with one hit to spare.
        own: query number → row of the passage that is the query itself.
        depth: most candidates.
    """
    queries = len(found.rows)
    fused = reciprocal_rank_fusion([found, words])
    itself = np.array([own.get(number, -1) for number in range(queries)])
    fused = fused.where(fused.rows != itself[fused.queries])
    fused = fused.where(fused.ranks < depth)
    return np.split(fused.rows, np.cumsum(fused.counts(queries))[:-1])


def reranked(candidates: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> Hits:
    """Hits of Q queries: candidates by descending score; of equal scores the earlier candidate comes first."""
    hits = Hits.empty(len(candidates), max(len(of_query) for of_query in candidates))
    for number, (rows, of_query) in enumerate(zip(candidates, scores, strict=True)):
        order = np.argsort(-of_query, kind="stable")
        hits.rows[number, : len(rows)] = rows[order]
        hits.scores[number, : len(rows)] = of_query[order]
    return hits


def _judged_here(recipe: Recipe) -> dict[str, TeacherSettings]:
    """The teachers that can score queries of which no run knows."""
    return {name: teacher for name, teacher in recipe.teachers.items() if teacher.kind not in ("adapted", "given")}


def _encode(recipe: Recipe, collection: JudgedCollection, progress: Progress) -> Collection:
    """The collection with its vectors by the base, and its BM25 index, which reads as that of the run does."""
    base, total = recipe.student_encoder(), len(collection.passage_ids)
    named = recipe.corpus.language
    language = detect(collection.texts[:: max(1, total // SAMPLE)]).code if named == AUTO else str(language_code(named))
    recipe = recipe.in_language(language)
    words: list[Bm25Settings] = [one for one in recipe.retrieval.retrievers.values() if one.kind == "bm25"]
    words += [one for one in recipe.teachers.values() if one.kind == "bm25"]
    encoder = Encoder(base)
    vectors = []
    with progress.task("base", total + len(collection.queries), "texts") as handle:
        queries = encoder.encode_queries(collection.queries)
        handle.advance(len(queries))
        for start in range(0, total, PASSAGES_AT_ONCE):
            part = slice(start, start + PASSAGES_AT_ONCE)
            vectors.append(encoder.encode_passages(collection.titles[part], collection.texts[part]))
            handle.advance(len(vectors[-1]))
    texts = [passage_text(*one) for one in zip(collection.titles, collection.texts, strict=True)]
    index = Bm25Index([texts], reads=text_settings(words[0] if words else Bm25Settings().in_language(language)))
    return Collection(list(collection.titles), list(collection.texts), index, base, queries, np.concatenate(vectors))


def _ensemble(recipe: Recipe, scores: Sequence[Sequence[np.ndarray]], notes: list[str]) -> Ensemble:
    """The ensemble of a recipe without a run."""
    settings = recipe.ensemble
    if settings.weights == "learnt":
        notes.append("The ensemble has the given weights here; a run learns them in its stage `lists`.")
    try:
        ranges = ranges_of(settings, list(_judged_here(recipe)), scores)
    except ValueError as error:
        raise InputError(f"ensemble.scale: {error}, so its scores have no range.") from None
    return Ensemble(tuple(teacher.weight for teacher in _judged_here(recipe).values()), settings.combine, ranges)


def _grades(collection: JudgedCollection, candidates: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The judged grades of the candidates, as scores."""
    return [
        np.array([collection.qrels[query].get(collection.judged_ids[row], 0) for row in rows], dtype=np.float32)
        for query, rows in zip(collection.query_ids, candidates, strict=True)
    ]
