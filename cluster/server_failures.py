"""Which failures of a server pass, whatever client asks it; `traffic.py` says when it is asked again."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.traffic import Passing, advised_wait

START_PATIENCE_S = 30.0  # for a server that was never there: its address may be wrong
MOST_FAILURES = 10  # of one request with status 500, while the server answers others
PASSING = (408, 409, 424, 425, 429)  # statuses below 500; 424 is text-embeddings-inference's "the model failed"


class FailsAloneError(Exception):
    """The server answers, but not this request."""


class ServerFailures:
    """What is known of one server, and what its failures mean.

    Args:
        server: its address, for messages.
        timeout_s: longest wait for an answer.
        patience_s: longest time from a request's first failure to its last attempt.

    `answered_at` is when the last answer came, in seconds of `time.monotonic`; 0 before the first.
    """

    def __init__(self, server: str, timeout_s: float, patience_s: float) -> None:
        self.server = server
        self.timeout_s = timeout_s
        self.patience_s = patience_s
        self.answered_at = 0.0

    def of_status(self, status: int, headers: Mapping[str, str], failures: int, begun: float) -> Passing | None:
        """Whether an answer with another status than 200 may pass.

        Args:
            status: of HTTP.
            headers: of the answer.
            failures: of this request so far.
            begun: when this request was first sent.

        Raises:
            FailsAloneError: this request fails again and again while others are answered.
        """
        if status < 500 and status not in PASSING:
            return None
        if status == 500 and failures >= MOST_FAILURES and self.answered_at > begun:
            raise FailsAloneError from None
        return Passing(f"{self.server} answers with status {status}", advised_wait(headers))

    def of_silence(self) -> Passing:
        """No answer came in time."""
        return Passing(f"{self.server} did not answer within {self.timeout_s:g} s")

    def of_absence(self) -> Passing:
        """There is no connection; a server that never answered is not waited for long."""
        return Passing(f"{self.server} does not answer", most_s=None if self.answered_at else START_PATIENCE_S)

    def of_broken_json(self) -> Passing:
        """What came is no JSON: another program may listen there."""
        return Passing(f"{self.server} answers with broken JSON", most_s=START_PATIENCE_S)

    def waited_s(self, has_status: bool) -> float:
        """Seconds for which it was asked again, at most."""
        return self.patience_s if has_status or self.answered_at else min(self.patience_s, START_PATIENCE_S)
