"""What scorers have in common that make token ids of pairs themselves, and compute them in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from distill.teachers.batches import Batches
from distill.teachers.pairs import Pair


class TokensOfPair(Protocol):
    """Token ids of one pair, and what else a scorer has to know of them."""

    @property
    def ids(self) -> list[int]:
        """What the model reads."""
        ...


class PairTokens(Protocol):
    """Makes token ids of pairs."""

    tokenizer: Any

    def tokens(self, pairs: Sequence[Pair]) -> Sequence[TokensOfPair | None]:
        """Tokens of n pairs; None where the query leaves no room for a passage."""
        ...


def decoded(prompt: PairTokens, pair: Pair) -> str:
    """What a model reads of a pair, as text with its special tokens."""
    (tokens,) = prompt.tokens([pair])
    return "(nothing: no room)" if tokens is None else str(prompt.tokenizer.decode(tokens.ids))


class PromptScorer:
    """Base of such scorers; a subclass computes a batch.

    Args:
        prompt: makes the tokens.
        batches: sorts and fills them, and counts what is read.
    """

    def __init__(self, prompt: PairTokens, batches: Batches) -> None:
        self.prompt = prompt
        self.batches = batches

    def compute(self, ids: torch.Tensor, mask: torch.Tensor, pairs: list[Any]) -> np.ndarray:
        """(B,) float32 scores of a batch of B pairs: (B, T) ids, their (B, T) mask, and the pairs' tokens."""
        raise NotImplementedError

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores; NaN for a pair whose query leaves no room for a passage.

        Raises:
            RuntimeError: one pair alone runs out of memory.
        """
        scores = np.full(len(pairs), np.nan, np.float32)
        tokens = {number: one for number, one in enumerate(self.prompt.tokens(pairs)) if one is not None}
        rows = list(tokens.values())
        if rows:
            scores[list(tokens)] = self.batches.run(
                [one.ids for one in rows],
                lambda ids, mask, numbers: self.compute(ids, mask, [rows[number] for number in numbers]),
            )
        return scores

    def shown(self, pair: Pair) -> str:
        """What the model reads of a pair, as text with its special tokens."""
        return decoded(self.prompt, pair)

    def take_tokens(self) -> int:
        """Tokens that the model has read since the last call."""
        return self.batches.take()
