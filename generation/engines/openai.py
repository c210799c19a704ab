"""Queries from any server that speaks OpenAI's protocol: a vLLM or SGLang server, a gateway, a provider.

The key is read from OPENAI_API_KEY where the worker runs, and stays in the client: it is in no recipe, table or log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from cluster.errors import InputError
from cluster.server_failures import FailsAloneError
from cluster.traffic import Traffic
from generation.engines.asking import Written, answered, ask_all, stops, unanswered
from generation.engines.base import Answer, Request
from generation.engines.failures import Failures, is_too_long, message
from generation.engines.fitting import half
from generation.engines.turns import without_special_tokens
from generation.joint import JointPrompt, joint_answers, joint_prompt, samples_of
from generation.prompting import STYLES, Layout, Prompt, Prompter, Style, unit_seed
from generation.query_types import QueryType
from generation.settings import GenerationSettings

MOST_HALVINGS = 6  # of a passage that the server's model cannot hold
CHARACTERS_PER_TOKEN = 4  # for the limit of tokens, until the server has counted them


class OpenAIEngine:
    """A client of one server.

    Args:
        settings: `base_url`, model, sampling; `engine_args` are sent as further fields of every request.
        types: the query types it is asked for; those that the settings name by default.

    `style` says how prompts are written: a chat for `/chat/completions`, or a text for `/completions`. `layout` says
    what they begin with, or that a JSON object shall answer for all types.

    Raises:
        InputError: the `openai` package is not installed.
    """

    styles: tuple[Style, ...] = STYLES

    def __init__(self, settings: GenerationSettings, types: Mapping[str, QueryType] | None = None) -> None:
        try:
            import openai
        except ImportError as error:
            raise InputError(
                "generation.engine: the package openai is not installed. Install it (pip install -e '.[openai]'), or "
                "choose the engine vllm or extractive."
            ) from error
        logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request otherwise
        self.settings = settings
        self.prompter = Prompter(settings, types)
        self.style: Style = "chat"
        self.layout: Layout = "type_first"
        self.client = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",  # servers of one's own seldom ask for one
            max_retries=0,  # `Traffic` asks again
            timeout=settings.timeout_s,
            # a redirect would carry the passages, and perhaps the key, to an address that the recipe does not name
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False),
        )
        self._traffic = Traffic(
            settings.requests_per_minute, settings.tokens_per_minute, settings.patience_s, settings.pool.workers or 1
        )
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._failures = Failures(settings)

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer per request, in order; a prompt that the server refuses is none.

        A passage that the server's model cannot hold is cut in half, at the end of a sentence, until it can.

        Raises:
            InputError: the server does not know the model or the key, or refuses everything it is asked.
            RunError: it does not answer, or not any longer.
        """
        import openai

        refusals: list[str] = []

        async def ask(samples: list[Request]) -> list[Answer]:
            shorter: list[Request | None] = [*samples]
            for _ in range(MOST_HALVINGS + 1):
                try:
                    answers = await self._ask([one for one in shorter if one])
                except FailsAloneError:
                    return unanswered(samples, "server_error")
                except openai.APIStatusError as error:
                    if error.status_code not in (400, 413, 422):
                        raise
                    refusals.append(message(error))
                    if not is_too_long(error):
                        return unanswered(samples, "refused_by_server")
                    shorter = [one and half(one, self.settings.prompt_characters) for one in shorter]
                    if None in shorter:
                        break
                else:
                    return [replace(answer, is_cut=shorter != samples) for answer in answers]
            return unanswered(samples, "prompt_too_long")

        try:
            answers = await ask_all(requests, self._slots, ask, self.prompter, self.layout)
        except (openai.APIError, TimeoutError, json.JSONDecodeError) as error:
            # without its cause, whose request has the key in its headers
            raise self._failures.explain(error, self.style) from None
        if refusals and not self._failures.answered_at:
            raise InputError(
                f"generation: {self.settings.base_url} refuses every request: {refusals[-1]}. Correct the model or the "
                "fields in generation.engine_args."
            )
        return answers

    async def _ask(self, samples: list[Request]) -> list[Answer]:
        """Samples of one prompt; a server that knows no `n` is asked again for those that are lacking."""
        if self.layout == "json":
            return await self._ask_jointly(samples)
        prompt = self.prompter.prompt(samples[0], self.style, self.layout)
        kind = self.prompter.types[prompt.query_type]
        fields: dict[str, Any] = {**kind.sampling}
        if stop := stops(kind, prompt.style):
            fields["stop"] = stop
        answers: list[Answer] = []
        while left := samples[len(answers) :]:
            choices, tokens = await self._complete(prompt, fields, kind.max_tokens, len(left), left[0])
            if not choices:
                return answers + unanswered(left, "empty")
            for number, (request, choice) in enumerate(zip(left, choices, strict=False)):
                used = (0, 0, 0) if number else tokens
                if choice.finish_reason == "content_filter":
                    answers.append(Answer(request.unit, None, "content_filter", used[0], "", used[1], used[2]))
                    continue
                written = Written(_text(choice, prompt.style), choice.finish_reason, *used)
                answers += answered([request], prompt, [written])
        return answers

    async def _ask_jointly(self, requests: list[Request]) -> list[Answer]:
        """All that is asked for a passage; a server that knows no `n` is asked again for objects that are lacking."""
        prompt, wanted = joint_prompt(self.prompter, requests, self.style), samples_of(requests)
        schema = {"name": "queries", "schema": prompt.schema, "strict": True}
        fields = {
            **self.settings.sampling.model_dump(exclude_none=True),
            "response_format": {"type": "json_schema", "json_schema": schema},
        }
        objects: list[tuple[str, str | None]] = []
        total = np.zeros(3, dtype=int)
        while len(objects) < wanted:
            seed = replace(requests[0], unit=f"{requests[0].source_id}:{len(objects)}")
            choices, tokens = await self._complete(prompt, fields, prompt.max_tokens, wanted - len(objects), seed)
            if not choices:
                break
            total += tokens
            objects += [(_text(choice, prompt.style), choice.finish_reason) for choice in choices]
        read, prompted, cached = (int(number) for number in total)
        return joint_answers(requests, prompt, objects[:wanted], (read, prompted, cached))

    async def _complete(
        self, prompt: Prompt | JointPrompt, fields: dict[str, Any], most: int, count: int, first: Request
    ) -> tuple[list[Any], tuple[int, int, int]]:
        """One call for some samples.

        Returns:
            The choices, and tokens: read and written by all of them, in the prompt, and of these from a prefix cache.
        """
        settings, fields, prompt = self.settings, dict(fields), without_special_tokens(prompt)
        if count > 1:
            fields["n"] = count
        if settings.request_seeds:
            fields["seed"] = unit_seed(settings.seed, first.unit)
        if settings.chat_template_kwargs and prompt.style == "chat":
            fields["chat_template_kwargs"] = settings.chat_template_kwargs
        fields |= settings.engine_args
        if "max_completion_tokens" not in fields:  # what newer models want instead
            fields.setdefault("max_tokens", most)
        expected = len(prompt.text) / CHARACTERS_PER_TOKEN + most * count
        # as extra fields all go the same way, whether OpenAI's own protocol has them or not
        if prompt.style == "completion":
            made = await self._send(
                lambda: self.client.completions.create(
                    model=str(settings.model), prompt=prompt.text, extra_body=fields
                ),
                expected,
            )
        else:
            messages: Any = prompt.messages
            made = await self._send(
                lambda: self.client.chat.completions.create(
                    model=str(settings.model), messages=messages, extra_body=fields
                ),
                expected,
            )
        usage = made.usage
        details = getattr(usage, "prompt_tokens_details", None)
        cached = getattr(details, "cached_tokens", None) or 0
        return made.choices or [], (usage.total_tokens, usage.prompt_tokens, cached) if usage else (0, 0, 0)

    async def _send(self, create: Callable[[], Awaitable[Any]], expected: float) -> Any:
        """What the server makes of a request of about so many tokens; sent again after failures that pass."""

        async def call() -> Any:
            await self._traffic.admit(expected)
            async with asyncio.timeout(self.settings.timeout_s):  # of the whole, where the client's is between bytes
                return await create()

        made = await self._traffic.ask(call, self._failures.passing)
        if not hasattr(made, "choices"):
            raise InputError(
                f"generation.base_url: {self.settings.base_url} answers with something that is no completion "
                f"({' '.join(str(made).split())[:100]!r}). Correct the address, which usually ends in /v1."
            )
        self._failures.answered_at = time.monotonic()
        if made.usage:
            self._traffic.used(expected, made.usage.total_tokens)
        return made

    async def close(self) -> None:
        """Closes the connections."""
        await self.client.close()


def _text(choice: Any, style: Style) -> str:
    """What a choice of a chat or a completion says."""
    if style == "completion":
        return choice.text or ""
    return choice.message.content or choice.message.refusal or ""
