"""From scored candidates to a training list: filters, scaling, choice, split. Pure functions, no files.

A training list holds `length` passages of one query, by default the best (`distill/lists/choose.py`). Its scores are
between 0 and 1, on the same scale for all queries of the run. A query that cannot fill its list is dropped with a
reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from distill.lists.choose import choose
from distill.settings.lists import ListSettings


@dataclass(frozen=True)
class Scale:
    """Percentiles of the scores of a whole run, or of the queries of one type.

    Attributes:
        low, high: raw scores that become 0 and 1.
        best: a query whose best score is lower is dropped.
    """

    low: float
    high: float
    best: float


@dataclass(frozen=True)
class Scales:
    """The scale of a run, and that of each query type if `lists.percentiles_per_type` asks for them.

    Attributes:
        of_all: over all queries.
        of_types: by query type.
    """

    of_all: Scale
    of_types: Mapping[str, Scale]

    def of(self, query_type: str) -> Scale:
        """The scale of a type; that of all queries for one whose scores say nothing, or that was not sampled."""
        return self.of_types.get(query_type, self.of_all)


@dataclass(frozen=True)
class TrainingList:
    """The training list of one query.

    Attributes:
        positions: `(length,) int64` positions among the query's candidates, by descending score.
        scores: `(length,) float32` scaled scores, in the same order.
        pool: `(n,) int64` positions of all candidates that might have been chosen, by descending score.
        pool_scores: `(n,) float32` their scaled scores.
    """

    positions: np.ndarray
    scores: np.ndarray
    pool: np.ndarray
    pool_scores: np.ndarray


def scale_of(scores: Sequence[np.ndarray], settings: ListSettings, first: Sequence[bool] = ()) -> Scale:
    """Percentiles over all candidates' scores, and over the best score of each query.

    With `best_percentile_of: all`, the bar for the best score is a percentile of all scores of the queries that find
    their source, as in the papers (arXiv 2502.19712).

    Args:
        scores: one `(C,)` array of ensemble scores per query, no empty ones.
        settings: the three percentiles.
        first: for each query, whether the filter for the source's rank keeps it; empty: it keeps all.

    Raises:
        ValueError: low and high percentile are equal, so that no score can be told from another.
    """
    low, high = np.percentile(np.concatenate(scores), [settings.low_percentile, settings.high_percentile])
    if not high > low:
        raise ValueError(f"every passage scores {low:g}")
    if settings.best_percentile_of == "all":
        kept = [of_query for of_query, is_kept in zip(scores, first, strict=True) if is_kept] if first else scores
        best = np.percentile(np.concatenate(kept or scores), settings.best_percentile)
    else:
        best = np.percentile([of_query.max() for of_query in scores], settings.best_percentile)
    return Scale(float(low), float(high), float(best))


def scales_of(
    scores: Sequence[np.ndarray], settings: ListSettings, types: Sequence[str] = (), first: Sequence[bool] = ()
) -> Scales:
    """The scale of a run, and of each query type if the settings ask for them.

    Args:
        scores, settings, first: as in `scale_of`.
        types: type of each query, if the settings ask for scales of types.

    Raises:
        ValueError: as `scale_of` over all queries. A type whose scores are all equal has no scale of its own.
    """
    of_types: dict[str, Scale] = {}
    for one in dict.fromkeys(types) if settings.percentiles_per_type else ():
        own = [number for number, of_query in enumerate(types) if of_query == one]
        with suppress(ValueError):
            of_types[one] = scale_of([scores[n] for n in own], settings, [first[n] for n in own] if first else ())
    return Scales(scale_of(scores, settings, first), of_types)


def scale_scores(scores: np.ndarray, scale: Scale) -> np.ndarray:
    """Min-max scaling between the two percentiles, clipped to 0…1, as float32 of the same shape."""
    return np.clip((scores - scale.low) / (scale.high - scale.low), 0.0, 1.0).astype(np.float32)


def raise_sources(scores: np.ndarray, sources: Sequence[int]) -> np.ndarray:
    """Scores in which all sources of a query have the best score of any of them, `(C,)`.

    A query over two passages needs both. A teacher that reads one at a time scores each by what it answers alone, so
    the lower score would make a negative of a passage that the query was written for.

    Args:
        scores: `(C,)` ensemble scores.
        sources: positions of the sources among the candidates; -1 for one that is not among them.
    """
    listed = [source for source in sources if source >= 0]
    if len(listed) < 2:
        return scores
    raised = scores.copy()
    raised[listed] = scores[listed].max()
    return raised


def sources_are_first(scores: np.ndarray, sources: Sequence[int]) -> bool:
    """Whether no passage has a higher score than the sources; a source that ties for the first rank counts as first.

    Args:
        scores: `(C,)` ensemble scores.
        sources: positions of the sources among the candidates; -1 for one that is not among them. Without any, True.
    """
    scores = raise_sources(scores, sources)
    best = float(scores.max()) if len(scores) else -np.inf
    return all(position >= 0 and scores[position] >= best for position in sources)


def build_list(
    scores: np.ndarray,
    source: int | None,
    scale: Scale,
    settings: ListSettings,
    *,
    leave_out_source: bool,
    second: int | None = None,
    copies: np.ndarray | None = None,
    student_ranks: np.ndarray | None = None,
) -> TrainingList | str:
    """The training list of one query, or the reason why it is dropped: source_not_first, low_score, few_candidates.

    Args:
        scores: `(C,)` ensemble scores of the candidates, in the order of the candidates table.
        source: position of the source passage among the candidates; None for a logged query, which has no source
            and skips the source filters. A synthetic query whose source is not among the candidates has -1.
        scale: percentiles of the run.
        settings: length, choice and filters.
        leave_out_source: remove the source from the list after the check that it ranks first.
        second: position of the other passage of a query over two, as `source`; both count as sources.
        copies: `(C,) bool`, candidates that repeat a source; they neither enter the list nor count as better.
        student_ranks: `(C,) int64` ranks that the student gives, where `settings.choice` needs them.
    """
    sources = [position for position in (source, second) if position is not None]
    scores = raise_sources(scores, sources)
    enters = np.ones(len(scores), dtype=bool) if copies is None else ~copies
    best = float(scores[enters].max()) if enters.any() else -np.inf
    if settings.require_source_first and not sources_are_first(np.where(enters, scores, -np.inf), sources):
        return "source_not_first"
    if best < scale.best:
        return "low_score"
    listed = [position for position in sources if position >= 0 and not leave_out_source]
    if leave_out_source:
        enters[[position for position in sources if position >= 0]] = False
    pool = np.flatnonzero(enters)
    if len(pool) < settings.length:
        return "few_candidates"
    ranks = None if student_ranks is None else student_ranks[pool]
    order = pool[choose(scores[pool], settings.length, settings.choice, ranks)]
    if settings.choice != "top":
        order = _with_best(order, [position for position in listed if scores[position] == best], listed)
    ranked = pool[np.argsort(-scores[pool], kind="stable")]
    return TrainingList(
        order, scale_scores(scores[order], scale), pool=ranked, pool_scores=scale_scores(scores[ranked], scale)
    )


def _with_best(order: np.ndarray, wanted: Sequence[int], sources: Sequence[int]) -> np.ndarray:
    """A list in which sources that tie for the first rank have the places of the best other passages, if they lack one.

    Only one of several passages with the highest score is sure to be chosen, and a query over two passages needs both.
    """
    missing = [position for position in wanted if position not in order]
    if not missing:
        return order
    replaced = [position for position in order.tolist() if position not in sources][: len(missing)]
    return np.array([*wanted, *(one for one in order.tolist() if one not in wanted and one not in replaced)])


def split_of(source: str, dev_fraction: float, seed: int) -> str:
    """ "train" or "dev": a function of the source and the seed, so that all queries of a source have the same split."""
    digest = hashlib.blake2b(f"{seed}:{source}".encode(), digest_size=8).digest()
    return "dev" if int.from_bytes(digest, "big") / 2**64 < dev_fraction else "train"


def explain_empty(planned: int, drops: Mapping[str, int], settings: ListSettings) -> str:
    """The message for a run whose filters left no query: how many each filter took, and which setting to change."""
    advice = {
        "no_score": "a teacher gave no finite score for them; look at the rejects of the scores stage",
        "source_not_first": "the teacher ranks another passage above the source; set lists.require_source_first=false, "
        "or use a stronger teacher",
        "two_splits": "one of their two passages is in train, the other in dev; lower lists.dev_fraction",
        "low_score": f"their best score is under the {settings.best_percentile:g}th percentile; "
        "lower lists.best_percentile",
        "few_candidates": f"fewer than lists.length={settings.length} passages were left; lower lists.length, "
        "or raise retrieval.depth and retrieval.min_candidates",
        "dev_split": "the rest; lower lists.dev_fraction",
    }
    taken = [f"{reason} took {drops[reason]} ({advice[reason]})" for reason in advice if drops.get(reason)]
    causes = "; ".join(taken or ["no filter took any"])
    return (
        f"no query is left for training: of {planned} scored queries, {causes}. Then run again with --overwrite lists."
    )
