"""Topics: blocks of lists that name the same passages, so that a step encodes fewer of them and its negatives are hard.

Lists and passages form a bipartite graph. It is halved again and again, every half as large as the other, by power
iteration on signs: a passage weighs (lists on one side) − (lists on the other), a list scores the sum of its passages'
weights, the best half of the lists forms the new side. That is balanced spectral bisection (Donath and Hoffman, 1973)
kept in whole numbers, so that every rank and every machine finds the same blocks to the bit.
"""

from __future__ import annotations

import numpy as np

ROUNDS = 8  # of power iteration at a cut; 16 gave no more repeats, 4 gave 2 % fewer


def topic_blocks(list_rows: np.ndarray, size: int, random: np.random.Generator) -> list[np.ndarray]:
    """Cuts lists into blocks of about `size` that share passages.

    Args:
        list_rows: (N, L) corpus rows, negative where a list is shorter.
        size: lists of a block, ≥ 1.
        random: where each cut starts; another state gives other blocks.

    Returns:
        Blocks of list numbers that together hold 0 … N − 1 once each; sizes differ by at most one.
    """
    uncut = [(random.permutation(len(list_rows)), max(1, len(list_rows) // size))]
    finished = []
    while uncut:
        lists, blocks = uncut.pop()
        if blocks == 1:
            finished.append(lists)
            continue
        left = blocks // 2
        # np.array_split's sizes: the first blocks hold one list more
        whole, more = divmod(len(lists), blocks)
        ranked = _ranked(list_rows[lists], left * whole + min(left, more), random)
        near, far = np.split(lists[ranked], [left * whole + min(left, more)])
        uncut += [(far, blocks - left), (near, left)]
    return finished


def _ranked(list_rows: np.ndarray, half: int, random: np.random.Generator) -> np.ndarray:
    """(n,) lists in descending order of belonging to one side, on which `half` of them stand."""
    count, length = list_rows.shape
    named, slots = np.unique(list_rows, return_inverse=True)
    slots = slots.reshape(count, length)
    is_empty = named < 0
    # Heat spreads from one list; lists are in random order, and a stable sort keeps that among equals.
    weights = np.bincount(slots[random.integers(count)], minlength=len(named))
    side = np.zeros(count, dtype=np.int64)
    for _ in range(ROUNDS):
        weights[is_empty] = 0
        ranked = np.argsort(-weights[slots].sum(axis=1), kind="stable")
        before, side = side, np.full(count, -half, dtype=np.int64)
        side[ranked[:half]] = count - half  # the signs add up to nothing, whatever the sizes
        if np.array_equal(before, side):
            break
        # float64 holds these whole numbers exactly
        weights = np.bincount(slots.ravel(), np.repeat(side, length), minlength=len(named)).astype(np.int64)
    return ranked
