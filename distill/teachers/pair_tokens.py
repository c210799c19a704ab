"""Token ids of query and passage as a classifier reads them: two sides with the tokenizer's special tokens around.

Each side is tokenised alone, so a text that occurs in many pairs is tokenised once. Tokenizers do the same inside: they
read both texts apart and put special tokens around them at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.encoders.tokens import CHARACTERS_PER_TOKEN

_SIDES = ("listwise", "pair")  # any two texts: only the special tokens around them are looked at


@dataclass(frozen=True)
class PairIds:
    """Tokens of one pair.

    Attributes:
        ids: what the model reads.
        first: how many of them belong to the query's side; they have token type 0.
    """

    ids: list[int]
    first: int


class PairTokenizer:
    """Tokenises pairs; a pair that is too long loses the end of its passage and nothing else.

    Args:
        tokenizer: a fast tokenizer of transformers; `fits` says whether it is one of those that are read here.
        max_tokens: most tokens of a pair, special tokens included.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        probe = tokenizer(*_SIDES)
        ids, sides = list(probe["input_ids"]), probe.sequence_ids()
        self._before = ids[: sides.index(0)]
        self._between = ids[_last(sides, 0) + 1 : sides.index(1)]
        self._after = ids[_last(sides, 1) + 1 :]
        types = probe.get("token_type_ids") or [0] * len(ids)
        self._first = _last(types, 0) + 1 - _last(sides, 0) - 1  # tokens behind the query that have its type
        self.has_types = 1 in types

    @staticmethod
    def fits(tokenizer: Any) -> bool:
        """Whether a tokenizer is a fast one that puts the query before the passage, and pads and cuts on the right."""
        if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token_id is None:
            return False
        if (tokenizer.padding_side, tokenizer.truncation_side) != ("right", "right"):
            return False
        probe = tokenizer(*_SIDES)
        sides, types = [side for side in probe.sequence_ids() if side is not None], probe.get("token_type_ids") or [0]
        return sides == sorted(sides) and set(sides) == {0, 1} and types == sorted(types) and set(types) <= {0, 1}

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> list[PairIds | None]:
        """Tokens of (query, passage) pairs; None for a query that leaves no room for a token of a passage."""
        longest = CHARACTERS_PER_TOKEN * self.max_tokens  # a tokenizer reads a whole text before it is cut
        queries = self._encode([query for query, _ in pairs])
        passages = self._encode([passage[:longest] for _, passage in pairs])
        rooms = self.max_tokens - len(self._before) - len(self._between) - len(self._after)
        return [
            self._joined(queries[query], passages[passage[:longest]][: rooms - len(queries[query])])
            if len(queries[query]) < rooms
            else None
            for query, passage in pairs
        ]

    def _joined(self, query: list[int], passage: list[int]) -> PairIds:
        ids = [*self._before, *query, *self._between, *passage, *self._after]
        return PairIds(ids, len(self._before) + len(query) + self._first)

    def _encode(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Ids of each text, without special tokens."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return {}
        rows = self.tokenizer(unique, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return dict(zip(unique, rows["input_ids"], strict=True))


def _last(values: Sequence[Any], value: Any) -> int:
    """Position of the last of these values."""
    return len(values) - 1 - list(values)[::-1].index(value)
