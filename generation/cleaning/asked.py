"""What the clean-up knows of a request, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """A request as the prompt showed it.

    Attributes:
        passage: title and text of the passage.
        query_type: name of the query type; answers of the type `keywords` may be lists over several lines.
        label: the word that marks the query in the prompt, such as "Question".
        instruction: everything that the prompt asks for in words.
        examples: the pairs of passage and query that the prompt showed.
        language: code of the language that the query must be in ("en"); None accepts every language.
        finish_reason: why the engine stopped; "length" is the token limit.
    """

    passage: str
    query_type: str = ""
    label: str = ""
    instruction: str = ""
    examples: tuple[tuple[str, str], ...] = ()
    language: str | None = None
    finish_reason: str | None = None

    @property
    def is_list(self) -> bool:
        """Whether a list of terms was asked for, and not a sentence."""
        return self.query_type == "keywords" or self.label.casefold().replace(" ", "") in ("keywords", "keyword")

    @property
    def is_cut(self) -> bool:
        """Whether the engine stopped in the middle of the answer."""
        return self.finish_reason == "length"


@dataclass(frozen=True)
class Cleaned:
    """A query, or the reason why there is none: one of the two is None."""

    text: str | None
    reason: str | None
