"""What the engines with a language model share: many prompts in flight, and answers made of what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from generation.cleaning.clean import clean
from generation.engines.base import Answer, Request
from generation.prompting import Layout, Prompt, Prompter, Style
from generation.query_types import QueryType

MOST_CHARACTERS = 20_000  # of an answer that are looked at; a server may pay no heed to `max_tokens`


@dataclass(frozen=True)
class Written:
    """What a model wrote for one sample of a prompt.

    Attributes:
        text: as it came.
        finish_reason: "stop", or "length" where it was cut at the limit of tokens; None: the engine does not say.
        tokens: read and written; the prompt counts for the first of its samples alone.
        prompt_tokens: read; 0 for all but the first sample.
        cached_tokens: those of the prompt that came from the prefix cache; 0 where the engine does not say.
    """

    text: str
    finish_reason: str | None
    tokens: int
    prompt_tokens: int = 0
    cached_tokens: int = 0


async def ask_all(
    requests: list[Request],
    slots: asyncio.Semaphore,
    ask: Callable[[list[Request]], Awaitable[list[Answer]]],
    prompter: Prompter,
    layout: Layout = "type_first",
) -> list[Answer]:
    """Asks all requests at the same time, as far as `slots` go; answers come in the order of the requests.

    Neighbours of one passage and type are samples of one prompt, and are asked together; in the layout json all types
    of a passage are, and all over it and its neighbour. Prompts with the same beginning are asked one after the other,
    so that the engine has it in its cache. The first exception ends the other requests and is raised.
    """

    async def one(samples: list[Request]) -> list[Answer]:
        async with slots:
            return await ask(samples)

    def asked_together(request: Request) -> tuple[str, str, bool]:
        return request.source_id, "" if layout == "json" else request.query_type, request.second is not None

    prompts = [list(samples) for _, samples in groupby(requests, key=asked_together)]
    first_with: dict[tuple[str, ...], int] = {}
    place = [first_with.setdefault(prompter.beginning(samples[0], layout), len(first_with)) for samples in prompts]
    tasks: dict[int, asyncio.Future[list[Answer]]] = {
        number: asyncio.ensure_future(one(prompts[number])) for number in np.argsort(place, kind="stable").tolist()
    }
    try:
        await asyncio.gather(*tasks.values())
        return [answer for number in range(len(prompts)) for answer in tasks[number].result()]
    except BaseException:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        raise


def answered(samples: list[Request], prompt: Prompt, written: Iterable[Written]) -> list[Answer]:
    """The answers to samples of one prompt, cleaned of what is no part of the query."""
    answers = []
    for request, one in zip(samples, written, strict=True):
        is_endless = len(one.text) > MOST_CHARACTERS
        text, finish = (one.text[:MOST_CHARACTERS], "length") if is_endless else (one.text, one.finish_reason)
        query = clean(text, prompt.asked(finish))
        dropped = text if query.text is None else ""
        answers.append(
            Answer(
                request.unit, query.text, query.reason, one.tokens, dropped, one.prompt_tokens, one.cached_tokens
            )
        )  # fmt: skip
    return answers


def unanswered(samples: list[Request], reason: str) -> list[Answer]:
    """No answers to samples of one prompt, which are counted under `reason`."""
    return [Answer(request.unit, None, reason, 0) for request in samples]


def stops(kind: QueryType, style: Style) -> list[str]:
    """Texts that end an answer. A chat ends by itself; a completion would go on with the next example."""
    return list(kind.stop) or (["\n"] if style == "completion" else [])
