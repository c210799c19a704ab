"""What every engine does: for each request one answer, in order, a text or the reason why there is none.

Engines know passages and query types. Shards, ids, duplicates and tables are the business of the stage around them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class SecondPassage:
    """The neighbour of a passage, for a query that needs both."""

    passage_id: str
    title: str
    text: str


@dataclass(frozen=True)
class Request:
    """One query to be written. `unit` names it in the whole run: "<source_id>:<query_type>:<sample>".

    `second` is set where the type has two hops.
    """

    unit: str
    source_id: str
    title: str
    text: str
    query_type: str
    sample: int
    second: SecondPassage | None = None


@dataclass(frozen=True)
class Answer:
    """The query that was written, or, where `text` is None, the `reason` under which the unit is counted as a drop.

    `tokens` counts what a language model read and wrote for it, `prompt_tokens` what it read, and `cached_tokens` what
    of this came from the prefix cache. Samples of one prompt count it once. `dropped` is an answer that is no query.
    `is_cut` says that the model's context did not hold the whole passage.
    """

    unit: str
    text: str | None
    reason: str | None
    tokens: int
    dropped: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    is_cut: bool = False


class Engine(Protocol):
    """Constructed once in a worker; may have a `close()`."""

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer per request, in the order of the requests."""
        ...
