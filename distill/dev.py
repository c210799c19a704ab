"""Dev evaluation while training: nDCG@10 over the full corpus and the dev loss, sharded over the ranks.

Every rank encodes its share of the corpus and of the dev queries. Queries are gathered, each rank searches its own
passages, and the ranks' best are merged; listed passages' similarities are summed up from the ranks that own them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from distill.dataset import ListData
from distill.gather import gather_ragged
from distill.losses import LossSettings, listwise_kl
from distill.step import Student
from distill.tokens import TokenFile

DEPTH = 10


@dataclass(frozen=True)
class DevResult:
    """`ndcg` is nDCG@10 with the teacher's scores as gains; `loss` the mean KL of the dev lists."""

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
        pad_id: token id of padding.
    """

    def __init__(
        self,
        lists: ListData,
        query_tokens: TokenFile,
        passage_tokens: TokenFile,
        settings: LossSettings,
        micro_batch_tokens: int,
        pad_id: int,
    ) -> None:
        self.lists = lists
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.settings = settings
        self.budget = micro_batch_tokens
        self.pad_id = pad_id
        best = lists.scores.max(axis=1, keepdims=True) if len(lists) else lists.scores
        relevant = (lists.rows >= 0) & ((lists.scores > settings.contrastive_margin * best) | (lists.scores == best))
        self.gains = np.where(relevant, lists.scores, 0.0)

    def __call__(self, student: Student, rank: int, world_size: int) -> DevResult:
        """The same result on every rank."""
        count, device = len(self.lists), student.device
        bounds = [len(self.passage_tokens) * each // world_size for each in range(world_size + 1)]
        first, last = bounds[rank], bounds[rank + 1]
        passages = self._encode(student, self.passage_tokens, np.arange(first, last))
        shares = [count * each // world_size for each in range(world_size + 1)]
        sizes = [stop - start for start, stop in zip(shares, shares[1:], strict=False)]
        own = self._encode(student, self.query_tokens, np.arange(shares[rank], shares[rank + 1]))
        queries = gather_ragged(own, sizes)

        similarity = queries @ passages.T
        depth = min(DEPTH, similarity.shape[1])
        values, places = similarity.topk(depth, dim=1)
        listed = torch.from_numpy(self.lists.rows).to(device)
        mine = (listed >= first) & (listed < last)
        found = similarity.gather(1, (listed - first).clamp(0, max(0, last - first - 1))) * mine
        ranked = torch.cat([values, (places + first).to(values.dtype)], dim=1)
        if world_size > 1:
            dist.all_reduce(found)
            gathered = [torch.empty_like(ranked) for _ in range(world_size)]
            dist.all_gather(gathered, ranked)
            values = torch.cat([each[:, :depth] for each in gathered], dim=1)
            rows = torch.cat([each[:, depth:] for each in gathered], dim=1)
        else:
            rows = ranked[:, depth:]
        top = rows.gather(1, values.topk(min(DEPTH, values.shape[1]), dim=1).indices).long().cpu().numpy()
        hits = top[:, :, None] == self.lists.rows[:, None, :]
        ranked_gains = (hits * self.gains[:, None, :]).sum(axis=2)
        teacher = torch.from_numpy(self.lists.scores).to(device)
        loss = listwise_kl(found, teacher, listed >= 0, self.settings).mean()
        return DevResult(float(ndcg(ranked_gains, self.gains).mean()), float(loss))

    def _encode(self, student: Student, tokens: TokenFile, rows: np.ndarray) -> torch.Tensor:
        """(len(rows), d) float32 embeddings on the student's device, encoded by descending length."""
        order = rows[np.argsort(-tokens.lengths[rows], kind="stable")]
        parts, start = [], 0
        with torch.no_grad():
            while start < len(order):
                size = max(1, self.budget // max(1, int(tokens.lengths[order[start]])))
                batch = order[start : start + size]
                ids, mask = tokens.padded(batch, self.pad_id)
                parts.append(student(ids.to(student.device), mask.to(student.device)))
                start += size
        stacked = torch.cat(parts)
        result = torch.empty_like(stacked)
        result[torch.from_numpy(order - rows[0]).to(stacked.device)] = stacked
        return result
