"""A teacher on a server: it is asked about a query and some passages at a time, and says a score for each.

The key is read from the environment where the worker runs, and stays in the client: it is in no recipe, table or log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import httpx2
import numpy as np

from cluster.errors import InputError
from cluster.server_failures import FailsAloneError
from cluster.traffic import Traffic
from distill.settings.teachers import TeacherSettings
from distill.teachers.http_api import address, body, read
from distill.teachers.http_failures import Failures, StatusError
from distill.teachers.pairs import Pair

CONNECT_S = 5.0  # to wait for a connection; an address where nobody listens may keep silent
MOST_HALVINGS = 6  # of a passage that the server's model cannot hold
LEAST_CHARACTERS = 32  # a shorter passage is not cut any more
_WORD_END = re.compile(r"(?<=\S)(?=\s)")


class HttpScorer:
    """Scorer that asks a server.

    Args:
        settings: `base_url`, `api`, model; how many requests, and how patiently.

    Raises:
        InputError: the variable that `api_key_env` names is not set here.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        for name in ("httpx", "httpx2"):
            logging.getLogger(name).setLevel(logging.WARNING)  # a line for every request otherwise
        self.settings = settings
        self.most_passages = settings.batch_size
        self._headers = {"Authorization": f"Bearer {key}"} if (key := _key(settings)) else {}
        self._traffic = Traffic(settings.requests_per_minute, None, settings.patience_s, settings.pool.workers or 1)
        self._failures = Failures(settings)
        self._tokens = 0

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores; NaN where the server gives none, or cannot hold a query and any of its passage.

        A request holds one query and at most `batch_size` of its passages.

        Raises:
            InputError: the server refuses the key, the model or the request, or answers with something else.
            RunError: it does not answer, or not any longer.
        """
        scores = np.full(len(pairs), np.nan, np.float32)
        numbers_of: dict[str, list[int]] = {}
        for number, (query, _) in enumerate(pairs):
            numbers_of.setdefault(query, []).append(number)
        if pairs:
            try:
                asyncio.run(self._score_all(pairs, numbers_of, scores))
            except (httpx2.HTTPError, StatusError, TimeoutError, json.JSONDecodeError) as error:
                # without its cause, whose request has the key in its headers
                raise self._failures.explain(error) from None
        return scores

    def shown(self, pair: Pair) -> str:
        """The request that is sent for a pair; the server makes a prompt of it."""
        request = json.dumps(body(self.settings, pair[0], [pair[1]]), ensure_ascii=False)
        return f"POST {address(self.settings)} {request}"

    def take_tokens(self) -> int:
        """Tokens that the server says it has read since the last call."""
        tokens, self._tokens = self._tokens, 0
        return tokens

    async def _score_all(self, pairs: Sequence[Pair], numbers_of: dict[str, list[int]], scores: np.ndarray) -> None:
        """Writes the scores of all pairs into `scores` (n,); the first exception ends the other requests."""
        slots = asyncio.Semaphore(self.settings.concurrency)
        # a redirect would carry the passages, and perhaps the key, to an address that the recipe does not name
        async with httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(self.settings.timeout_s, connect=min(CONNECT_S, self.settings.timeout_s)),
            follow_redirects=False,
            limits=httpx2.Limits(max_connections=self.settings.concurrency),
        ) as client:

            async def ask(query: str, numbers: list[int]) -> None:
                async with slots:
                    scores[numbers] = await self._ask(client, query, [pairs[number][1] for number in numbers])

            size = self.most_passages
            tasks = [
                asyncio.ensure_future(ask(query, numbers[start : start + size]))
                for query, numbers in numbers_of.items()
                for start in range(0, len(numbers), size)
            ]
            try:
                await asyncio.gather(*tasks)
            except BaseException:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                raise

    async def _ask(self, client: httpx2.AsyncClient, query: str, passages: list[str]) -> np.ndarray:
        """(n,) scores of passages.

        Passages are asked about in two halves if they are too many, or if one of them is too long: a server does not
        say which one. A passage that is too long alone is cut in half until it fits; the query is never cut.
        """
        if len(passages) > self.most_passages:
            return await self._ask_halves(client, query, passages)
        for _ in range(MOST_HALVINGS + 1):
            try:
                return await self._send(client, query, passages)
            except FailsAloneError:
                break
            except StatusError as error:
                if not error.is_too_long and not error.is_too_many:
                    raise
                if len(passages) > 1:
                    if error.is_too_many:
                        self.most_passages = min(self.most_passages, len(passages) // 2)
                    return await self._ask_halves(client, query, passages)
                if not error.is_too_long and error.status != 413:
                    raise
                if (shorter := _half(passages[0])) is None:
                    break
                passages = [shorter]
        return np.full(len(passages), np.nan, np.float32)

    async def _ask_halves(self, client: httpx2.AsyncClient, query: str, passages: list[str]) -> np.ndarray:
        middle = len(passages) // 2
        return np.concatenate(
            [await self._ask(client, query, passages[:middle]), await self._ask(client, query, passages[middle:])]
        )

    async def _send(self, client: httpx2.AsyncClient, query: str, passages: list[str]) -> np.ndarray:
        """(n,) scores of one request, which is sent again after failures that pass."""
        url, content = address(self.settings), body(self.settings, query, passages)

        async def call() -> Any:
            await self._traffic.admit(0)
            async with asyncio.timeout(self.settings.timeout_s):  # of the whole, where the client's is between bytes
                response = await client.post(url, json=content)
            if response.status_code != 200:
                raise StatusError(response)
            try:
                return json.loads(response.content.decode(errors="replace"))
            except RecursionError:
                raise ValueError("the answer is nested too deeply") from None

        answer = await self._traffic.ask(call, self._failures.passing)
        scores, tokens = read(self.settings, answer, len(passages))
        self._failures.answered_at = time.monotonic()
        self._tokens += tokens
        return scores


def _key(settings: TeacherSettings) -> str | None:
    if settings.api_key_env is None:
        return None
    key = os.environ.get(settings.api_key_env)
    if not key:
        raise InputError(
            f"teacher on {settings.base_url}: api_key_env names {settings.api_key_env}, and that is not set where the "
            "worker runs. Set it in the environment that workers are started in."
        )
    return key


def _half(passage: str) -> str | None:
    """The first half of a passage, up to the end of a word where there is one; None if it is short already."""
    text = passage.strip()
    if len(text) < 2 * LEAST_CHARACTERS:
        return None
    ends = [match.end() for match in _WORD_END.finditer(text, 0, len(text) // 2 + 1)]
    return text[: ends[-1]] if ends and ends[-1] >= LEAST_CHARACTERS else text[: len(text) // 2]
