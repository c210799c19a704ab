"""How sharp the teachers' distributions over the lists are, at the temperature of the training.

A student learns from softmax(scores / temperature) over each list. Where that is nearly uniform the teachers say
nothing, and where nearly all of it is the first passage, the order of the others is lost.
"""

from __future__ import annotations

import numpy as np

from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table

FLAT, SATURATED = 0.95, 0.05  # of the entropy, as a share of that of the uniform distribution
GOOD = 0.5
SAMPLED_LISTS = 2_000
BLOCKS = 20  # of consecutive lists, so that not every data file is read
LOWEST, HIGHEST = 1e-4, 1e4  # temperatures


def sharpness(scores: np.ndarray, temperature: float) -> float:
    """Mean entropy of softmax(scores / temperature) over the lists, divided by log L: 0 is one-hot, 1 is uniform.

    Args:
        scores: `(N, L)` scores of N lists, L at least 2.
        temperature: of the teacher.
    """
    logits = scores.astype(np.float64) / temperature
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1)
    # H = log(sum of weights) - sum of p × shifted logit, which is finite for p = 0 too
    entropy = np.log(total) - (weights * shifted).sum(axis=1) / total
    return float(entropy.mean() / np.log(scores.shape[1]))


def temperature_for(scores: np.ndarray, wanted: float = GOOD) -> float | None:
    """The temperature at which `sharpness` is as wanted, to 1 %; None if no temperature is.

    It is found by bisection: the entropy of a softmax grows with its temperature.
    """
    low, high = LOWEST, HIGHEST
    if not sharpness(scores, low) < wanted < sharpness(scores, high):
        return None
    while high > 1.01 * low:
        middle = (low * high) ** 0.5
        if sharpness(scores, middle) < wanted:
            low = middle
        else:
            high = middle
    return (low * high) ** 0.5


def sampled_scores(lists: Table, length: int) -> np.ndarray:
    """`(N, length) float32` scores of at most `SAMPLED_LISTS` lists of a run, in blocks at equal distances.

    Args:
        lists: LISTS, all of one length.
        length: passages of a list that training reads, the best.
    """
    size = SAMPLED_LISTS // BLOCKS
    starts = np.unique(np.linspace(0, max(0, lists.num_rows - size), BLOCKS).astype(int))
    rows = np.unique(np.concatenate([np.arange(start, min(start + size, lists.num_rows)) for start in starts]))
    column = RowReader(lists, ["scores"], budget_bytes=0).take(rows).column("scores")
    return np.array(column.to_pylist(), dtype=np.float32)[:, :length]


def warning(scores: np.ndarray, temperature: float) -> str | None:
    """What a person should know of these lists at this temperature, and what to change; None if all is well.

    Args:
        scores: `(N, L)` scores of N lists.
        temperature: `training.teacher_temperature`.
    """
    share = sharpness(scores, temperature)
    if SATURATED <= share <= FLAT:
        return None
    what = "flat: the teachers say almost nothing" if share > FLAT else "saturated: only the first passage counts"
    better = temperature_for(scores)
    remedy = (
        f"training.teacher_temperature={better:.2g} gives {GOOD:g}"
        if better
        else "no temperature changes that, since the scores of a list hardly differ: use other teachers"
    )
    return (
        f"the teachers' lists are {what}. At training.teacher_temperature={temperature:g} their distributions have "
        f"{share:.2f} of the entropy of uniform ones; {remedy}."
    )
