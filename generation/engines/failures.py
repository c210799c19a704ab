"""What a server's failures mean: which of them pass, and what to do about the others."""

from __future__ import annotations

import json
import re
from typing import Any

from cluster.errors import InputError, RunError
from cluster.server_failures import ServerFailures
from cluster.traffic import Passing
from generation.prompting import Style
from generation.settings import GenerationSettings

_TOO_LONG = re.compile(
    r"context.{0,10}(?:length|window|size)|maximum.{0,40}tokens|too (?:long|many tokens)", re.IGNORECASE
)


class Failures(ServerFailures):
    """Judges what goes wrong with an OpenAI-compatible server.

    Args:
        settings: address, model and patience.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        super().__init__(str(settings.base_url), settings.timeout_s, settings.patience_s)
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
        import openai

        if isinstance(error, openai.APIStatusError):
            if _has_no_credit(error):
                return None
            return self.of_status(error.status_code, error.response.headers, failures, begun)
        if isinstance(error, TimeoutError | openai.APITimeoutError):
            return self.of_silence()
        if isinstance(error, openai.APIConnectionError):
            return self.of_absence()
        return self.of_broken_json() if isinstance(error, json.JSONDecodeError) else None

    def explain(self, error: Exception, style: Style) -> InputError | RunError:
        """The error that ends the run: what the server said, and what to do."""
        settings, server, status = self.settings, self.server, getattr(error, "status_code", None)
        if status and 300 <= status < 400:
            there = error.response.headers.get("location")  # type: ignore[attr-defined]
            return InputError(
                f"generation.base_url: {server} redirects to {there} ({status}). That is not followed, since the "
                "passages, and perhaps the key, would go there. If it is right, set generation.base_url to it."
            )
        if status in (401, 403):
            return InputError(
                f"generation.base_url: {server} does not accept the key ({status}). Set OPENAI_API_KEY in the "
                "environment that workers are started in."
            )
        if status == 404:
            return InputError(
                f"generation.model: {server} has no model '{settings.model}' (404: {message(error)}). Correct the "
                "model, or base_url, which usually ends in /v1"
                + (", or set generation.prompt: chat." if style == "completion" else ".")
            )
        if _has_no_credit(error):
            return InputError(
                f"generation.base_url: {server} says that the account's credit is used up ({message(error)}). Queries "
                "written so far are kept: run again when there is more."
            )
        if status:
            what = f"answers with status {status} ({message(error)})"
        else:
            what = "answers with broken JSON" if isinstance(error, json.JSONDecodeError) else "does not answer"
        return RunError(
            f"generation.base_url: {server} {what}, for {self.waited_s(bool(status)):g} s. Queries "
            "written so far are kept: run again when it does, with a lower generation.concurrency, or with "
            "generation.requests_per_minute, if it was too busy."
        )


def is_too_long(error: Any) -> bool:
    """Whether the server refuses a prompt because of its length."""
    code = getattr(error, "code", None)
    return error.status_code == 413 or code == "context_length_exceeded" or bool(_TOO_LONG.search(message(error)))


def message(error: Any) -> str:
    """What the server says, on one line."""
    body = getattr(error, "body", None)
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or getattr(error, "message", error)).split())[:300].rstrip(".")


def _has_no_credit(error: Any) -> bool:
    return getattr(error, "status_code", None) == 429 and getattr(error, "code", None) == "insufficient_quota"
