"""What the engines with a language model share: many prompts in flight, and answers made of what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from generation.cleaning.clean import clean
from generation.engines.base import Answer, Request
from generation.prompting import Prompt, Style
from generation.query_types import QueryType


@dataclass(frozen=True)
class Written:
    """What a model wrote for one sample of a prompt.

    Attributes:
        text: as it came.
        finish_reason: "stop", or "length" where it was cut at the limit of tokens; None: the engine does not say.
        tokens: read and written; the prompt counts for the first of its samples alone.
    """

    text: str
    finish_reason: str | None
    tokens: int


async def ask_all(
    requests: list[Request], slots: asyncio.Semaphore, ask: Callable[[list[Request]], Awaitable[list[Answer]]]
) -> list[Answer]:
    """Asks all requests at the same time, as far as `slots` go; answers come in the order of the requests.

    Neighbours of one passage and type are samples of one prompt, and are asked together. The first exception ends the
    other requests and is raised.
    """

    async def one(samples: list[Request]) -> list[Answer]:
        async with slots:
            return await ask(samples)

    prompts = groupby(requests, key=lambda request: (request.source_id, request.query_type))
    tasks = [asyncio.ensure_future(one(list(samples))) for _, samples in prompts]
    try:
        return [answer for answers in await asyncio.gather(*tasks) for answer in answers]
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def answered(samples: list[Request], prompt: Prompt, written: Iterable[Written]) -> list[Answer]:
    """The answers to samples of one prompt, cleaned of what is no part of the query."""
    answers = []
    for request, one in zip(samples, written, strict=True):
        query = clean(one.text, prompt.asked(one.finish_reason))
        dropped = one.text if query.text is None else ""
        answers.append(Answer(request.unit, query.text, query.reason, one.tokens, dropped))
    return answers


def unanswered(samples: list[Request], reason: str) -> list[Answer]:
    """No answers to samples of one prompt, which are counted under `reason`."""
    return [Answer(request.unit, None, reason, 0) for request in samples]


def stops(kind: QueryType, style: Style) -> list[str]:
    """Texts that end an answer. A chat ends by itself; a completion would go on with the next example."""
    return list(kind.stop) or (["\n"] if style == "completion" else [])
