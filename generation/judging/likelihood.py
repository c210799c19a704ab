"""Judging by likelihood: is a query likelier with its passage than without?

A language model reads the query after the passage, and alone. The mean log-probability of its tokens rises by what the
passage says about them: their pointwise mutual information, per token (Church and Hanks, "Word Association Norms,
Mutual Information, and Lexicography", Computational Linguistics 16 (1), 1990). A query about something else gains
nothing, and neither does nonsense. The model follows no instruction, so a small one will do, also the one that wrote
the queries.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from generation.judging.prompts import Pair, cut_to_fit, passage_texts
from generation.special_tokens import as_text, of_tokenizer

PASSAGE, BETWEEN, QUERY = "Passage: ", "\n\n", "Query:"


@dataclass(frozen=True)
class QueryTokens:
    """What the model reads for a query.

    Attributes:
        prompts: token ids of the query alone and after its passage; both end with the query.
        count: tokens of the query.
    """

    prompts: tuple[list[int], list[int]]
    count: int


def beginning(passages: Sequence[tuple[str, str]], characters: int) -> str:
    """The text that a query follows, with no, one or two passages of so many characters together."""
    return "".join(f"{PASSAGE}{text}{BETWEEN}" for text in passage_texts(passages, characters)) + QUERY


def wording_digest() -> str:
    """Changes whenever the text around passage and query does."""
    return hashlib.sha256("|".join((PASSAGE, BETWEEN, QUERY)).encode()).hexdigest()[:16]


class LikelihoodPrompts:
    """Token ids of queries, alone and after their passages.

    Args:
        characters: of the passages' texts together, at most.
        tokenizer: of the model.
        longest: tokens that a prompt may have; None: no limit.
    """

    def __init__(self, characters: int, tokenizer: Any, longest: int | None) -> None:
        self.characters, self.tokenizer, self.longest = characters, tokenizer, longest
        self._special = of_tokenizer(tokenizer)

    def tokens(self, pair: Pair) -> QueryTokens | None:
        """The prompts of a query.

        A passage that makes them too long is cut at the end of a sentence; None: nothing of it fits, or the query has
        no token.
        """
        query = self.tokenizer.encode(f" {self._plain(pair.query)}", add_special_tokens=False)
        passages = tuple((self._plain(title), self._plain(text)) for title, text in pair.passages)
        if not query:
            return None
        alone = [*self._begin(()), *query]
        whole = [*self._begin(passages), *query]
        if self.longest is not None and len(whole) > self.longest:
            room = self.longest - len(query)
            shorter = cut_to_fit(passages, self.characters, room, lambda passages: len(self._begin(passages)))
            if shorter is None:
                return None
            whole = [*self._begin(shorter), *query]
        return QueryTokens((alone, whole), len(query))

    def _begin(self, passages: Sequence[tuple[str, str]]) -> list[int]:
        """What the query follows. Models that have a token for the beginning of a text get it."""
        return list(self.tokenizer.encode(beginning(passages, self.characters)))

    def _plain(self, text: str) -> str:
        return as_text(text, self._special)
