"""What the failures of a server that scores mean: which of them pass, and what to do about the others."""

from __future__ import annotations

import json
import re

import httpx2

from cluster.errors import InputError, RunError
from cluster.server_failures import PASSING, ServerFailures
from cluster.traffic import Passing
from distill.settings.teachers import TeacherSettings
from distill.teachers.http_api import address

_OF_AMOUNT = (400, 413, 422)  # statuses with which servers refuse what is too much
_OF_LENGTH = (*_OF_AMOUNT, 500)  # and a pair that is too long

_TOO_LONG = re.compile(
    r"context.{0,10}(?:length|window|size)|maximum.{0,40}(?:tokens|model length)|less than \d+ tokens|"
    r"too (?:long|many tokens)|too large to process",
    re.IGNORECASE,
)
_TOO_MANY = re.compile(r"batch.{0,30}(?:size|limit)|too many (?:texts|documents|passages|inputs)", re.IGNORECASE)


class StatusError(Exception):
    """The server answers with another status than 200.

    Args:
        response: the answer.
    """

    def __init__(self, response: httpx2.Response) -> None:
        self.status = response.status_code
        self.headers = response.headers
        self.message = _message(response)
        super().__init__(self.message)

    @property
    def is_too_long(self) -> bool:
        """Whether a pair is longer than the server's model can read."""
        return self.status in _OF_LENGTH and bool(_TOO_LONG.search(self.message))

    @property
    def is_too_many(self) -> bool:
        """Whether the request has more passages than the server takes."""
        if self.is_too_long or self.status not in _OF_AMOUNT:
            return False
        return self.status == 413 or bool(_TOO_MANY.search(self.message))


class Failures(ServerFailures):
    """Judges what goes wrong with a server that scores.

    Args:
        settings: address, model and patience.
    """

    def __init__(self, settings: TeacherSettings) -> None:
        super().__init__(address(settings), settings.timeout_s, settings.patience_s)
        self.settings = settings

    def passing(self, error: Exception, failures: int, begun: float) -> Passing | None:
        """Whether a failure may pass, and what the server says about it.

        Args:
            error: what the client raised.
            failures: of this request so far.
            begun: when the request was first sent.

        Raises:
            FailsAloneError: this request fails again and again while others are answered.
        """
        if isinstance(error, StatusError):
            if error.is_too_long or error.is_too_many:
                return None
            return self.of_status(error.status, error.headers, failures, begun)
        if isinstance(error, TimeoutError | httpx2.ReadTimeout | httpx2.WriteTimeout):
            return self.of_silence()
        if isinstance(error, httpx2.TransportError):
            return self.of_absence()
        return self.of_broken_json() if isinstance(error, json.JSONDecodeError) else None

    def explain(self, error: Exception) -> InputError | RunError:
        """The error that ends the run: what the server said, and what to do."""
        settings, server = self.settings, self.server
        if isinstance(error, StatusError):
            status, said = error.status, f"{error.status}: {error.message}"
            if 300 <= status < 400:
                there = error.headers.get("location")
                return InputError(
                    f"{server} redirects to {there} ({status}). That is not followed, since the passages, and perhaps "
                    "the key, would go there. If it is right, correct the teacher's base_url."
                )
            if status in (401, 403):
                variable = settings.api_key_env
                return InputError(
                    f"{server} does not accept the key ({said}). "
                    + (f"Set {variable} in the environment" if variable else "Set api_key_env to a variable")
                    + " that workers are started in."
                )
            if status == 404:
                return InputError(
                    f"{server} is not there, or has no model '{settings.model}' ({said}). Correct the teacher's "
                    f"base_url, model, or api, which is {settings.api}."
                )
            if status < 500 and status not in PASSING:
                return InputError(
                    f"{server} refuses a request ({said}). Correct the teacher's model, api or engine_args."
                )
            what = f"answers with status {said}"
        elif isinstance(error, json.JSONDecodeError):
            what = "answers with something that is no JSON"
        else:
            what = "does not answer"
        return RunError(
            f"{server} {what}, for {self.waited_s(isinstance(error, StatusError)):g} s. Scores computed so far are "
            "kept: run again when it does, with a lower concurrency, or with requests_per_minute, if it was too busy."
        )


def _message(response: httpx2.Response) -> str:
    """What the server says, on one line: `error.message`, `error`, `message` or `detail` of its JSON, or its text."""
    try:
        found = response.json()
    except ValueError:
        found = response.text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(name):
            found = found[name]
    return " ".join(str(found).split())[:300].rstrip(".") or "no words"
