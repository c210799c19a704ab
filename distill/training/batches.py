"""The plan of a step: which queries, which passages, encoded by whom, in which micro-batches.

A plan is a pure function of (seed, epoch, step, world size) and the lists, so every rank computes the same one alone,
and a resume is a step number. The queries of a step do not depend on the world size: only the dealing does.

Letters: Q queries of the global batch, L slots of a list, U unique passages, W ranks.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from distill.encoders.tokens import padded_length
from distill.training.topics import topic_blocks

TOKENS_PER_SEQUENCE = 32  # packed, at most one sequence for so many tokens: the kernel keeps something for each
PASS = 32  # part of a micro-batch's tokens that a pass of any size costs: weights are read and their gradients added
MASKED = -1  # slot of a list that is shorter than L


@dataclass(frozen=True)
class Share:
    """What one rank encodes: positions `start` to `stop` of the plan's order, cut into micro-batches of positions."""

    start: int
    stop: int
    micro_batches: tuple[np.ndarray, ...]

    @property
    def size(self) -> int:
        """Number of items of this share."""
        return self.stop - self.start


@dataclass(frozen=True)
class StepPlan:
    """One global batch, dealt to W ranks. Items of a rank stand together, rank after rank.

    Attributes:
        queries: (Q,) rows of the training lists, in rank order.
        passages: (U,) rows of the corpus, each once, in rank order.
        slots: (Q, L) positions in `passages` of each query's list, `MASKED` where a list is shorter.
        counts: (U,) how many slots of the batch hold the passage.
        query_shares, passage_shares: one `Share` per rank.
    """

    queries: np.ndarray
    passages: np.ndarray
    slots: np.ndarray
    counts: np.ndarray
    query_shares: tuple[Share, ...]
    passage_shares: tuple[Share, ...]

    @property
    def repeats(self) -> float:
        """Filled slots per unique passage: the factor of encoding that this plan saves."""
        return float(self.counts.sum() / max(1, len(self.passages)))


def steps_per_epoch(lists: int, queries_per_step: int) -> int:
    """Whole global batches in an epoch; a corpus of fewer lists than a batch makes one smaller batch."""
    return max(1, lists // queries_per_step)


def lists_per_epoch(logged: np.ndarray, log_weight: float) -> int:
    """Lists that an epoch holds, if it holds those of logged queries `log_weight` times.

    Args:
        logged: (N,) bool, whether a list is of a logged query.
        log_weight: > 0.
    """
    return int((~logged).sum()) + _draws(int(logged.sum()), log_weight)


def epoch_order(
    list_rows: np.ndarray,
    seed: int,
    epoch: int,
    topic_queries: int = 1,
    logged: np.ndarray | None = None,
    log_weight: float = 1.0,
) -> np.ndarray:
    """Order in which an epoch goes through the lists; a step takes a slice of it.

    Every list stands in it once, and with a `log_weight` w those of logged queries w times: as often as w has whole
    parts, and once more for a share of them that every epoch draws anew.

    With `topic_queries` = 1 the lists are shuffled. With more, lists that share passages stand together in blocks of
    that many queries (`distill.training.topics`), and the blocks are shuffled: harder negatives, and more repeats for a
    step to save. Every epoch forms other blocks.

    Args:
        list_rows: (N, L) corpus rows, `MASKED` where a list is shorter.
        seed, epoch: decide the order, nothing else does.
        topic_queries: queries of a block; the times that a logged query is repeated are in different blocks.
        logged: (N,) bool, whether a list is of a logged query; None: none is.
        log_weight: > 0.

    Returns:
        (`lists_per_epoch`,) int64 numbers of lists.
    """
    random = np.random.default_rng([seed, epoch])
    parts = _parts(len(list_rows), logged, log_weight, random)
    if topic_queries <= 1:
        order = np.concatenate(parts)
        return order[random.permutation(len(order))]
    blocks = [part[block] for part in parts for block in topic_blocks(list_rows[part], topic_queries, random)]
    return np.concatenate([blocks[block] for block in random.permutation(len(blocks))])


def _parts(count: int, logged: np.ndarray | None, log_weight: float, random: np.random.Generator) -> list[np.ndarray]:
    """Parts of an epoch, none of which holds a list twice."""
    everything = np.arange(count)
    if logged is None or log_weight == 1 or not logged.any():
        return [everything]
    rows = np.flatnonzero(logged)
    times, more = divmod(_draws(len(rows), log_weight), len(rows))
    drawn = [np.sort(random.choice(rows, more, replace=False))] if more else []
    if times == 0:
        return [np.concatenate([np.flatnonzero(~logged), *drawn])]
    return [everything, *[rows] * (times - 1), *drawn]


def _draws(logged: int, log_weight: float) -> int:
    return max(1, round(log_weight * logged)) if logged else 0


def plan_step(
    queries: np.ndarray,
    list_rows: np.ndarray,
    query_lengths: np.ndarray,
    passage_lengths: np.ndarray,
    world_size: int,
    micro_batch_tokens: int,
    packed: bool = False,
) -> StepPlan:
    """Deals one global batch.

    Args:
        queries: (Q,) rows of the lists, a slice of `epoch_order`.
        list_rows: (N, L) corpus rows of every list, `MASKED` where a list is shorter.
        query_lengths: (N,) tokens of each list's query.
        passage_lengths: (P,) tokens of each corpus row.
        world_size: number of ranks, W.
        micro_batch_tokens: most tokens that one forward pass computes (a single longer item still goes alone).
        packed: whether a forward pass computes no padding.
    """
    query_order, query_shares = deal(query_lengths[queries], world_size, micro_batch_tokens, packed)
    queries = queries[query_order]
    listed = list_rows[queries]
    filled = listed != MASKED
    unique, inverse, counts = np.unique(listed[filled], return_inverse=True, return_counts=True)
    passage_order, passage_shares = deal(passage_lengths[unique], world_size, micro_batch_tokens, packed)
    position = np.empty(len(unique), dtype=np.int64)
    position[passage_order] = np.arange(len(unique))
    slots = np.full(listed.shape, MASKED, dtype=np.int64)
    slots[filled] = position[inverse.reshape(-1)]
    return StepPlan(queries, unique[passage_order], slots, counts[passage_order], query_shares, passage_shares)


def deal(
    lengths: np.ndarray, world_size: int, budget: int, packed: bool = False
) -> tuple[np.ndarray, tuple[Share, ...]]:
    """Deals items to ranks so that tokens balance: longest first, each to the rank with the fewest tokens so far.

    Args:
        lengths: (n,) tokens of each item.
        world_size: number of ranks.
        budget: most tokens that a micro-batch computes.
        packed: whether it computes no padding.

    Returns:
        The (n,) order in which the items of rank 0, then rank 1, … stand, and each rank's share of that order. Within
        a rank items stand by descending length, so that a micro-batch holds items of similar length and pads little.
    """
    dealt: list[list[int]] = [[] for _ in range(world_size)]
    loads = [(0, rank) for rank in range(world_size)]
    for item in np.argsort(-lengths, kind="stable"):
        load, rank = heapq.heappop(loads)
        dealt[rank].append(int(item))
        heapq.heappush(loads, (load + int(lengths[item]), rank))
    order = np.array([item for items in dealt for item in items], dtype=np.int64)
    shares, start = [], 0
    for items in dealt:
        own = lengths[np.array(items, dtype=np.int64)]
        shares.append(Share(start, start + len(items), _cut(own, start, budget, packed)))
        start += len(items)
    return order, tuple(shares)


def _cut(lengths: np.ndarray, offset: int, budget: int, packed: bool) -> tuple[np.ndarray, ...]:
    """Cuts items of descending length into micro-batches that compute at most `budget` tokens.

    A micro-batch ends before it is full where its shorter items pad less in the next one, by more tokens than one more
    pass costs. Without that, texts of a few dozen tokens compute up to twice as many (`docs/compute.md`).
    """
    padded = padded_length(lengths.astype(np.int64))
    ends = np.cumsum(lengths, dtype=np.int64)
    micro_batches, start = [], 0
    while start < len(lengths):
        if packed:
            fitting = int(np.searchsorted(ends, ends[start] - lengths[start] + budget, side="right")) - start
            fitting = min(fitting, budget // TOKENS_PER_SEQUENCE)
        else:
            fitting = budget // max(1, int(padded[start]))
            fitting = _least_padding(padded[start : start + fitting], budget // PASS)
        stop = min(len(lengths), start + max(1, fitting))
        micro_batches.append(np.arange(offset + start, offset + stop))
        start = stop
    return tuple(micro_batches)


def _least_padding(padded: np.ndarray, least: int) -> int:
    """Number of items that go into one micro-batch: those before the cut that saves most padding, or all.

    Args:
        padded: (n,) tokens of each item padded by itself, in descending order.
        least: tokens that a cut has to save.
    """
    if not len(padded):
        return 0
    saved = np.arange(len(padded), 0, -1) * (padded[0] - padded)  # if the items from here on are padded to this one
    best = int(saved.argmax())
    return best if saved[best] > least else len(padded)
