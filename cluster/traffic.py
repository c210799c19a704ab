"""When a request to a server is sent: within limits per minute, after pauses that the server asks for, and again after
failures that pass.

Requests are spread evenly over a minute, so that no limit of a provider is met by a burst. A failed request waits twice
as long each time, with jitter, so that many do not come back at the same moment.
"""

from __future__ import annotations

import asyncio
import email.utils
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0  # after failures, where the server does not say how long
_QUIET_S = 60.0  # between two lines of the log about failures

T = TypeVar("T")

_log = logging.getLogger(__name__)
_log.setLevel(logging.INFO)  # so that the stage's log has it, whatever the level of the process


@dataclass(frozen=True)
class Passing:
    """A failure that may pass.

    Attributes:
        why: in words.
        advised_s: how long the server wants to be left alone; None if it does not say.
        most_s: longest time to go on asking; None for the traffic's own.
    """

    why: str
    advised_s: float | None = None
    most_s: float | None = None


@dataclass
class Traffic:
    """The requests of one worker to one server.

    Attributes:
        requests_per_minute, tokens_per_minute: limits of all workers together; None for none.
        patience_s: longest time from a request's first failure to its last attempt.
        workers: that share the limits; each keeps to an equal part.
    """

    requests_per_minute: int | None
    tokens_per_minute: int | None
    patience_s: float
    workers: int = 1
    _next_request: float = field(default=0.0, init=False)
    _next_tokens: float = field(default=0.0, init=False)
    _paused_until: float = field(default=0.0, init=False)
    _last_line: float = field(default=-_QUIET_S, init=False)

    async def admit(self, tokens: float) -> None:
        """Waits until a request of about so many tokens may be sent."""
        now = time.monotonic()
        at = now
        if self.requests_per_minute:
            at = self._next_request = max(now, self._next_request)
            self._next_request += 60 * self.workers / self.requests_per_minute
        if self.tokens_per_minute:
            self._next_tokens = max(now, self._next_tokens)
            at = max(at, self._next_tokens)
            self._next_tokens += 60 * self.workers * tokens / self.tokens_per_minute
        while (wait := max(at, self._paused_until) - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    def used(self, expected: float, tokens: float) -> None:
        """Corrects an expected number of tokens by what the server has counted."""
        if self.tokens_per_minute:
            self._next_tokens += 60 * self.workers * (tokens - expected) / self.tokens_per_minute

    async def ask(
        self, call: Callable[[], Awaitable[T]], failure: Callable[[Exception, int, float], Passing | None]
    ) -> T:
        """What a call returns, asked again after failures that pass.

        Args:
            call: sends the request; it calls `admit`.
            failure: says of an exception whether it passes, or None. It is also told how many failures there were, and
                when the request was first sent, in seconds of `time.monotonic`.

        Raises:
            Exception: that of the last call, or of `failure`.
        """
        begun, first, failures = time.monotonic(), 0.0, 0
        while True:
            try:
                return await call()
            except Exception as error:
                now = time.monotonic()
                first, failures = first or now, failures + 1
                if (passing := failure(error, failures, begun)) is None:
                    raise
                wait = self._wait(passing, failures)
                most = self.patience_s if passing.most_s is None else min(self.patience_s, passing.most_s)
                if now + wait - first > most:
                    raise
                if passing.advised_s is not None:  # what it says of one request is true of all
                    self._paused_until = max(self._paused_until, now + passing.advised_s)
                self._tell(passing.why, first + most - now)
                await asyncio.sleep(wait)

    def _wait(self, passing: Passing, failures: int) -> float:
        if passing.advised_s is not None:
            return passing.advised_s * random.uniform(1.0, 1.25)
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)

    def _tell(self, why: str, left_s: float) -> None:
        now = time.monotonic()
        if now - self._last_line >= _QUIET_S:
            self._last_line = now
            _log.warning("%s; the request is sent again, for %.0f s more at most", why, left_s)


def advised_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server wants to be left alone, by its `retry-after-ms` or `Retry-After`; None: not said."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            return max(0.0, float(text) * unit)
        except ValueError:
            date = email.utils.parsedate_tz(text)
            if date is not None:
                return max(0.0, email.utils.mktime_tz(date) - time.time())
    return None
