"""What the engines with a language model share: many requests in flight, and an answer made of what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from generation.cleaning import clean
from generation.engines.base import Answer, Request
from generation.prompting import Prompter


async def ask_all(
    requests: list[Request], slots: asyncio.Semaphore, ask: Callable[[Request], Awaitable[Answer]]
) -> list[Answer]:
    """Asks all requests at the same time, as far as `slots` go; answers come in the order of the requests.

    The first exception ends the other requests and is raised.
    """

    async def one(request: Request) -> Answer:
        async with slots:
            return await ask(request)

    tasks = [asyncio.ensure_future(one(request)) for request in requests]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def answered(request: Request, written: str, tokens: int, finish_reason: str | None, prompter: Prompter) -> Answer:
    """The answer to a request, cleaned of what is no part of the query.

    Args:
        request: what was asked.
        written: what the model wrote.
        tokens: read and written for it.
        finish_reason: why the engine stopped, "length" at the token limit.
        prompter: that made the prompt.
    """
    cleaned = clean(written, prompter.asked(request, finish_reason))
    return Answer(request.unit, cleaned.text, cleaned.reason, tokens)
