"""From scored candidates to a training list: filters, scaling, cut, split. Pure functions, no files.

A training list holds the `length` best passages of one query. Its scores are between 0 and 1, on the same scale for all
queries of the run. A query that cannot fill its list is dropped with a reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from distill.settings import ListSettings


@dataclass(frozen=True)
class Scale:
    """Percentiles of the scores of a whole run.

    Attributes:
        low, high: raw scores that become 0 and 1.
        best: a query whose best score is lower is dropped.
    """

    low: float
    high: float
    best: float


@dataclass(frozen=True)
class TrainingList:
    """The training list of one query.

    Attributes:
        positions: `(length,) int64` positions among the query's candidates, by descending score.
        scores: `(length,) float32` scaled scores, in the same order.
    """

    positions: np.ndarray
    scores: np.ndarray


def scale_of(scores: Sequence[np.ndarray], settings: ListSettings) -> Scale:
    """Percentiles over all candidates' scores, and over the best score of each query.

    Args:
        scores: one `(C,)` array of ensemble scores per query, no empty ones.
        settings: the three percentiles.

    Raises:
        ValueError: low and high percentile are equal, so that no score can be told from another.
    """
    low, high = np.percentile(np.concatenate(scores), [settings.low_percentile, settings.high_percentile])
    if not high > low:
        raise ValueError(f"every passage scores {low:g}")
    best = np.percentile([of_query.max() for of_query in scores], settings.best_percentile)
    return Scale(float(low), float(high), float(best))


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


def build_list(
    scores: np.ndarray,
    source: int | None,
    scale: Scale,
    settings: ListSettings,
    *,
    leave_out_source: bool,
    second: int | None = None,
) -> TrainingList | str:
    """The training list of one query, or the reason why it is dropped: source_not_first, low_score, few_candidates.

    Args:
        scores: `(C,)` ensemble scores of the candidates, in the order of the candidates table.
        source: position of the source passage among the candidates; None for a logged query, which has no source
            and skips the source filters. A synthetic query whose source is not among the candidates has -1.
        scale: percentiles of the run.
        settings: length and filters.
        leave_out_source: remove the source from the list after the check that it ranks first.
        second: position of the other passage of a query over two, as `source`; both count as sources.
    """
    sources = [position for position in (source, second) if position is not None]
    scores = raise_sources(scores, sources)
    best = float(scores.max()) if len(scores) else -np.inf
    # A source that ties for the first rank counts as first, since no other passage has a higher score.
    if settings.require_source_first and any(position < 0 or scores[position] < best for position in sources):
        return "source_not_first"
    if best < scale.best:
        return "low_score"
    order = np.argsort(-scores, kind="stable")
    if leave_out_source:
        order = order[~np.isin(order, sources)]
    order = order[: settings.length]
    if len(order) < settings.length:
        return "few_candidates"
    return TrainingList(order, scale_scores(scores[order], scale))


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
