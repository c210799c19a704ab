"""Dev evaluation while training: nDCG@10 over the full corpus and the dev loss, sharded over the ranks.

Every rank encodes its share of the corpus and of the dev queries. Queries are gathered, each rank searches its own
passages, and the ranks' best are merged; listed passages' similarities are summed up from the ranks that own them.
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
from distill.training.batches import Share, deal
from distill.training.gather import gather_ragged
from distill.training.list_arrays import ListArrays

DEPTH = 10
_SEARCH_ELEMENTS = 1 << 26


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


class DevEvaluator:
    """Judges a student on the dev lists.

    Args:
        lists: dev lists; a passage that the teacher scores above `margin` × the list's best is relevant, its gain is
            the score.
        query_tokens, passage_tokens: token files of the dev queries and of the whole corpus.
        settings: temperatures and margin of training.
        micro_batch_tokens: most padded tokens of a forward pass.
        layout: of the micro-batches.
    """

    def __init__(
        self,
        lists: ListArrays,
        query_tokens: TokenFile,
        passage_tokens: TokenFile,
        settings: LossSettings,
        micro_batch_tokens: int,
        layout: Layout,
    ) -> None:
        self.lists = lists
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.settings = settings
        self.budget = micro_batch_tokens
        self.layout = layout
        self._dealt: dict[int, tuple[np.ndarray, tuple[Share, ...]]] = {}
        best = lists.scores.max(axis=1, keepdims=True)
        relevant = (lists.rows >= 0) & ((lists.scores > settings.contrastive_margin * best) | (lists.scores == best))
        self.gains = np.where(relevant, lists.scores, 0.0)

    def __call__(self, student: EncoderModule, rank: int, world_size: int) -> DevResult:
        """The same result on every rank."""
        passages, order, share = self._encode(student, self.passage_tokens, rank, world_size)
        own, query_order, query_share = self._encode(student, self.query_tokens, rank, world_size)
        queries = gather_ragged(own, [rank_share.size for rank_share in query_share])
        rows = torch.from_numpy(np.column_stack([self.lists.rows, self.lists.left_out])[query_order])
        position = np.empty(len(order) + 1, dtype=np.int64)  # the last place stands for an empty slot
        position[order], position[-1] = np.arange(len(order)), -1
        place = torch.from_numpy(position)[rows].to(queries.device) - share[rank].start
        values, positions, listed = self._search(queries, passages, place[:, :-1], place[:, -1])
        rows = rows[:, :-1]
        top = torch.from_numpy(order[share[rank].start : share[rank].stop])[positions.cpu()]
        top = torch.nn.functional.pad(top, (0, DEPTH - top.shape[1]), value=-2).to(queries.device)
        values = torch.nn.functional.pad(values, (0, DEPTH - values.shape[1]), value=-torch.inf)
        if world_size > 1:
            dist.all_reduce(listed)
            values, top = (_gather_columns(tensor, world_size) for tensor in (values, top))
        best = top.gather(1, values.topk(DEPTH, dim=1).indices).cpu().numpy()

        gains = self.gains[query_order]
        hits = best[:, :, None] == rows.numpy()[:, None, :]
        teacher = torch.from_numpy(self.lists.scores[query_order]).to(listed.device)
        loss = list_loss(listed, teacher, (rows >= 0).to(listed.device), self.settings).mean()
        return DevResult(float(ndcg((hits * gains[:, None, :]).sum(axis=2), gains).mean()), float(loss))

    def _search(
        self, queries: torch.Tensor, passages: torch.Tensor, place: torch.Tensor, left_out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Best of this rank's passages per query, (Q, ≤10) values and positions, and (Q, L) similarities of listed.

        `place` holds the positions of listed passages in this rank's share; similarities of passages of other ranks are
        0. A passage that was left out of its query's list, `left_out`, is never a hit: it would push the listed ones
        down.
        """
        if not len(passages):  # a corpus of fewer passages than ranks
            none = queries.new_zeros(len(queries), 0)
            return none, none.long(), queries.new_zeros(place.shape)
        values, positions, listed = [], [], []
        rows = max(1, _SEARCH_ELEMENTS // max(1, len(passages)))
        for start in range(0, len(queries), rows):
            similarity = queries[start : start + rows] @ passages.T
            hidden = left_out[start : start + rows]
            own = torch.nonzero((hidden >= 0) & (hidden < len(passages))).squeeze(1)
            similarity[own, hidden[own]] = -torch.inf
            near = similarity.topk(min(DEPTH, similarity.shape[1]), dim=1)
            values.append(near.values)
            positions.append(near.indices)
            slots = place[start : start + rows]
            inside = (slots >= 0) & (slots < len(passages))
            # a place outside of this share is moved to its edge for the gather, and masked after it
            near_edge = similarity.gather(1, slots.clamp(0, len(passages) - 1))
            listed.append(near_edge.masked_fill(~inside, 0.0))
        return torch.cat(values), torch.cat(positions), torch.cat(listed)

    def _encode(
        self, student: EncoderModule, tokens: TokenFile, rank: int, world_size: int
    ) -> tuple[torch.Tensor, np.ndarray, tuple[Share, ...]]:
        """This rank's share of a token file: (n, d) float32, with the order of all rows and everyone's shares."""
        if id(tokens) not in self._dealt:  # the same in every evaluation
            self._dealt[id(tokens)] = deal(tokens.lengths, world_size, self.budget, self.layout.packed)
        order, shares = self._dealt[id(tokens)]
        own = shares[rank]
        # Under ZeRO 3 a forward pass is a collective, so every rank makes equally many.
        missing = max(len(rank_share.micro_batches) for rank_share in shares) - len(own.micro_batches)
        parts = []
        with torch.no_grad():
            for positions in (*own.micro_batches, *[np.zeros(1, dtype=np.int64)] * missing):
                parts.append(student(**self.layout.features(tokens, order[positions])))
        return torch.cat(parts)[: own.size], order, shares


def _gather_columns(local: torch.Tensor, world_size: int) -> torch.Tensor:
    gathered = [torch.empty_like(local) for _ in range(world_size)]
    dist.all_gather(gathered, local.contiguous())
    return torch.cat(gathered, dim=1)
