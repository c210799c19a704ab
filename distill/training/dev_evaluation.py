"""Dev evaluation while training: nDCG@10 of the student as a reranker of what the teachers scored, and the dev loss.

The student ranks, for each dev query, all passages that the teachers scored for it, and no other: a passage that nobody
scored may well be relevant, so it is neither a hit nor a miss. What is encoded is these passages, not the corpus.

Every rank encodes its share of the passages and of the queries. Queries are gathered, each rank computes the
similarities of its own passages, and their sum over the ranks is the whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from distill.encoders.layout import Layout
from distill.encoders.module import EncoderModule
from distill.encoders.tokens import TokenFile
from distill.losses.batch import LossSettings, list_loss
from distill.training.batches import MASKED, Share, deal
from distill.training.gather import gather_ragged
from distill.training.list_arrays import DevLists

DEPTH = 10
_ELEMENTS = 1 << 26  # numbers of passages' vectors that are put beside their queries at once


@dataclass(frozen=True)
class DevResult:
    """`ndcg` is nDCG@10 with the teacher's scores as gains; `loss` the mean list loss of the dev lists."""

    ndcg: float
    loss: float


def ndcg(ranked_gains: np.ndarray, all_gains: np.ndarray) -> np.ndarray:
    """(Q,) normalised discounted cumulative gain (Järvelin and Kekäläinen, 2002), gains taken as they are.

    Args:
        ranked_gains: (Q, k) gain of the passage at each rank.
        all_gains: (Q, L) gains of all relevant passages, in any order.
    """
    depth = ranked_gains.shape[1]
    discount = 1.0 / np.log2(np.arange(2, depth + 2))
    ideal = -np.sort(-all_gains, axis=1)[:, :depth]
    best = (ideal * discount[: ideal.shape[1]]).sum(axis=1)
    return np.divide((ranked_gains * discount).sum(axis=1), best, out=np.zeros(len(best)), where=best > 0)


def relevant_gains(rows: np.ndarray, scores: np.ndarray, relevant_from: float) -> np.ndarray:
    """(Q, C) gain of each passage: its score if it is above `relevant_from` × the best of its query, else 0.

    Args:
        rows: (Q, C) corpus rows, `MASKED` where there are fewer.
        scores: (Q, C) normalised teacher scores; the best of a query counts whatever the share is.
        relevant_from: from 0 to 1.
    """
    best = scores.max(axis=1, keepdims=True)
    return np.where((rows != MASKED) & ((scores > relevant_from * best) | (scores == best)), scores, 0.0)


class DevEvaluator:
    """Judges a student on the dev lists.

    Args:
        lists: dev lists, with all scored passages of their queries.
        query_tokens, passage_tokens: token files of the dev queries and of the whole corpus.
        settings: loss and temperatures of training.
        relevant_from: a scored passage above this × the best score of its query is relevant; its gain is the score.
        micro_batch_tokens: most padded tokens of a forward pass.
        layout: of the micro-batches.
    """

    def __init__(
        self,
        lists: DevLists,
        query_tokens: TokenFile,
        passage_tokens: TokenFile,
        settings: LossSettings,
        relevant_from: float,
        micro_batch_tokens: int,
        layout: Layout,
    ) -> None:
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.settings = settings
        self.budget = micro_batch_tokens
        self.layout = layout
        self.teacher = torch.from_numpy(lists.lists.scores)
        self.gains = relevant_gains(lists.rows, lists.scores, relevant_from)
        # the scored passages, and after them those of the list: first as corpus rows, then as numbers of the passages
        both = np.concatenate([lists.rows, lists.lists.rows], axis=1)
        self.passages = np.unique(both[both != MASKED])
        self.places = np.where(both == MASKED, MASKED, np.searchsorted(self.passages, both))
        self.scored = lists.rows.shape[1]
        self._dealt: dict[int, tuple[np.ndarray, tuple[Share, ...]]] = {}

    def __call__(self, student: EncoderModule, rank: int, world_size: int) -> DevResult:
        """The same result on every rank."""
        passages, order, shares = self._encode(student, self.passage_tokens, self.passages, rank, world_size)
        everything = np.arange(len(self.places))
        own, query_order, query_shares = self._encode(student, self.query_tokens, everything, rank, world_size)
        gathered = gather_ragged(own, [share.size for share in query_shares])
        queries = torch.empty_like(gathered)
        queries[torch.from_numpy(query_order).to(gathered.device)] = gathered

        position = np.full(len(order) + 1, MASKED)  # the last place stands for an empty slot
        position[order[shares[rank].start : shares[rank].stop]] = np.arange(shares[rank].size)
        similarity = pair_similarities(queries, passages, torch.from_numpy(position[self.places]).to(queries.device))
        if world_size > 1:
            dist.all_reduce(similarity)
        scored, listed = similarity[:, : self.scored].cpu(), similarity[:, self.scored :]

        is_empty = torch.from_numpy(self.places[:, : self.scored] == MASKED)
        best = scored.masked_fill(is_empty, -torch.inf).topk(min(DEPTH, self.scored), dim=1).indices.numpy()
        ranked = np.take_along_axis(self.gains, best, axis=1)
        filled = torch.from_numpy(self.places[:, self.scored :] != MASKED).to(listed.device)
        loss = list_loss(listed, self.teacher.to(listed.device), filled, self.settings).mean()
        return DevResult(float(ndcg(ranked, self.gains).mean()), float(loss))

    def _encode(
        self, student: EncoderModule, tokens: TokenFile, rows: np.ndarray, rank: int, world_size: int
    ) -> tuple[torch.Tensor, np.ndarray, tuple[Share, ...]]:
        """This rank's share of some rows of a token file: (n, d) float32, with the order of all and everyone's shares.

        The order is one of positions in `rows`.
        """
        if id(tokens) not in self._dealt:  # the same in every evaluation
            self._dealt[id(tokens)] = deal(tokens.lengths[rows], world_size, self.budget, self.layout.packed)
        order, shares = self._dealt[id(tokens)]
        own = shares[rank]
        # Under ZeRO 3 a forward pass is a collective, so every rank makes equally many.
        missing = max(len(rank_share.micro_batches) for rank_share in shares) - len(own.micro_batches)
        parts = []
        with torch.no_grad():
            for positions in (*own.micro_batches, *[np.zeros(1, dtype=np.int64)] * missing):
                parts.append(student(**self.layout.features(tokens, rows[order[positions]])))
        return torch.cat(parts)[: own.size], order, shares


def pair_similarities(queries: torch.Tensor, passages: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(Q, C) similarities of each query and its own C passages.

    Args:
        queries: (Q, d).
        passages: (n, d), this rank's.
        places: (Q, C) int64 positions in `passages`, `MASKED` for one that is not there, whose similarity is 0.
    """
    found = queries.new_zeros(places.shape)
    if not len(passages):  # fewer passages than ranks
        return found
    rows = max(1, _ELEMENTS // max(1, places.shape[1] * passages.shape[1]))
    for start in range(0, len(queries), rows):
        block = places[start : start + rows]
        vectors = passages[block.clamp(min=0)]
        similarity = torch.bmm(vectors, queries[start : start + rows].unsqueeze(2)).squeeze(2)
        found[start : start + rows] = similarity.masked_fill(block == MASKED, 0.0)
    return found
