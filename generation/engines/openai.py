"""Queries from any server that speaks OpenAI's chat completions: a vLLM or SGLang server, a gateway, a provider.

The key is read from OPENAI_API_KEY where the worker runs, and stays in the client: it is in no recipe, table or log.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

from cluster.errors import InputError, RunError
from generation.engines.asking import answered, ask_all
from generation.engines.base import Answer, Request
from generation.prompting import Prompter
from generation.settings import GenerationSettings

MAX_RETRIES = 6  # the client waits between them, up to 8 s, or as long as the server asks for
TIMEOUT_S = 120.0


class OpenAIEngine:
    """A client of one server.

    Args:
        settings: `base_url`, model, sampling; `engine_args` are sent as further fields of every request.

    Raises:
        InputError: the `openai` package is not installed.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "generation.engine: the package openai is not installed. Install it (pip install -e '.[openai]'), or "
                "choose the engine vllm or extractive."
            ) from error
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request otherwise
        self.settings = settings
        self.prompter = Prompter(settings)
        self.client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",  # servers of one's own seldom ask for one
            max_retries=MAX_RETRIES,
            timeout=TIMEOUT_S,
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._has_answered = False

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer per request, in order; a prompt that the server refuses is none.

        Raises:
            InputError: the server does not know the model or the key, or refuses everything it is asked.
            RunError: it does not answer, or not any longer.
        """
        import openai

        refusals: list[str] = []

        async def ask(request: Request) -> Answer:
            try:
                answer = await self._ask(request)
            except openai.APIStatusError as error:
                if error.status_code not in (400, 413, 422):
                    raise
                refusals.append(_message(error))
                is_long = getattr(error, "code", None) == "context_length_exceeded" or error.status_code == 413
                return Answer(request.unit, None, "prompt_too_long" if is_long else "refused_by_server", 0)
            self._has_answered = True
            return answer

        try:
            answers = await ask_all(requests, self._slots, ask)
        except openai.APIError as error:
            raise self._explain(error) from None  # the request that the cause holds has the key in its headers
        if len(refusals) == len(requests) > 0 and not self._has_answered:
            raise InputError(
                f"generation: {self.settings.base_url} refuses every request: {refusals[-1]}. Correct the model or the "
                "fields in generation.engine_args."
            )
        return answers

    async def _ask(self, request: Request) -> Answer:
        more = dict(self.settings.engine_args)
        if "max_completion_tokens" not in more:  # what newer models want instead
            more["max_tokens"] = self.settings.max_tokens
        messages: Any = self.prompter.messages(request)
        completion = await self.client.chat.completions.create(
            model=str(self.settings.model), messages=messages, temperature=self.settings.temperature, extra_body=more
        )
        tokens = completion.usage.total_tokens if completion.usage else 0
        choice = completion.choices[0] if completion.choices else None
        if choice is not None and choice.finish_reason == "content_filter":
            return Answer(request.unit, None, "content_filter", tokens)
        written = (choice.message.content or choice.message.refusal or "") if choice else ""
        return answered(request, written, tokens, choice.finish_reason if choice else None, self.prompter)

    def _explain(self, error: Any) -> InputError | RunError:
        server, status = self.settings.base_url, getattr(error, "status_code", None)
        if status in (401, 403):
            return InputError(
                f"generation.base_url: {server} does not accept the key ({status}). Set OPENAI_API_KEY in the "
                "environment that workers are started in."
            )
        if status == 404:
            return InputError(
                f"generation.model: {server} has no model '{self.settings.model}' (404: {_message(error)}). Correct "
                "the model, or base_url, which usually ends in /v1."
            )
        what = f"answers with status {status} ({_message(error)})" if status else "does not answer"
        return RunError(
            f"generation.base_url: {server} {what}, after {MAX_RETRIES} retries. Queries written so far are kept: run "
            "again when it does, with a lower generation.concurrency if it was too busy."
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or getattr(error, "message", error)).split())[:300].rstrip(".")
