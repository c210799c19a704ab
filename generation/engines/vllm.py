"""Queries from a vLLM engine that lives in its worker: all requests of a shard at once, batched by the engine.

The engine runs in child processes. When they die the worker ends too, so that a broken engine never takes a retry; the
pool replaces it and gives its shards to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError
from cluster.machines.vllm import first_sentence
from generation.engines.asking import Written, answered, ask_all, stops, unanswered
from generation.engines.base import Answer, Request
from generation.engines.fitting import fitted
from generation.engines.lora import Adapter, adapter_folder
from generation.engines.turns import token_ids, without_special_tokens
from generation.engines.vllm_start import end_process, start
from generation.joint import JointPrompt, joint_answers, joint_prompt, samples_of
from generation.prompting import STYLES, Layout, Prompt, Prompter, Style, unit_seed
from generation.query_types import QueryType
from generation.settings import GenerationSettings
from generation.special_tokens import of_tokenizer

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest


class VllmEngine:
    """A vLLM engine on the devices of this process.

    Args:
        settings: model, sampling, length of prompts, `tensor_parallel`; `engine_args` go to vLLM as they are.
        types: the query types it is asked for; those that the settings name by default.

    `style` and `layout` say how prompts are written; `styles` are those that the model can read. `lora_request` names
    the adapter to vLLM; None asks the model without it.

    Raises:
        InputError: vLLM is not installed, the model cannot be loaded, or vLLM refuses an argument.
        RunError: the engine does not start.
    """

    def __init__(self, settings: GenerationSettings, types: Mapping[str, QueryType] | None = None) -> None:
        self.settings = settings
        self.prompter = Prompter(settings, types)
        self.adapter = Adapter.read(adapter_folder(settings.lora, settings.lora_revision)) if settings.lora else None
        self.engine, self.is_cpu = start(settings, self.adapter)
        self.tokenizer: Any = self.engine.get_tokenizer()
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        self._special = of_tokenizer(self.tokenizer)
        self.styles: tuple[Style, ...] = STYLES if has_template else ("completion",)
        self.style = self.styles[0]
        self.layout: Layout = "type_first"
        self.max_model_len: int = self.engine.model_config.max_model_len
        self.lora_request: LoRARequest | None = self.adapter.request() if self.adapter else None
        self._loaded: LoRARequest | None = None
        self._loading = asyncio.Lock()
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._rendering = ThreadPoolExecutor(1, "prompts")  # one: fast tokenizers do not like to be shared

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer per request, in order.

        Where the model's context cannot hold a prompt, the passage is cut at the end of a sentence.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._load_adapter()
            return await ask_all(requests, self._slots, self._ask, self.prompter, self.layout)
        except EngineDeadError as error:
            end_process(error)

    async def _load_adapter(self) -> None:
        """Has the engine read the adapter before it is asked anything: what it cannot use would end it then."""
        from vllm.v1.engine.exceptions import EngineDeadError

        async with self._loading:
            if self.lora_request is None or self._loaded is self.lora_request:
                return
            try:
                await self.engine.add_lora(self.lora_request)
            except EngineDeadError:
                raise
            except Exception as error:  # vLLM passes on the text alone
                raise InputError(
                    f"generation.lora: vLLM cannot use {self.lora_request.lora_path} with '{self.settings.model}': "
                    f"{first_sentence(error)} Expected an adapter of this model."
                ) from error
            self._loaded = self.lora_request

    async def _ask(self, samples: list[Request]) -> list[Answer]:
        """Samples of one prompt, which the engine reads once; in the layout json all that is asked for a passage."""
        from vllm.inputs import tokens_input

        loop, first = asyncio.get_running_loop(), samples[0]
        prompt, tokens = await loop.run_in_executor(self._rendering, self._rendered, samples)
        kind = self.prompter.types[first.query_type]
        most = prompt.max_tokens if isinstance(prompt, JointPrompt) else kind.max_tokens
        if is_cut := len(tokens) + most > self.max_model_len:
            longest = self.max_model_len - most
            shorter = await loop.run_in_executor(self._rendering, self._shortened, samples, longest)
            if shorter is None:
                return unanswered(samples, "prompt_too_long")
            prompt, tokens = shorter
        count = samples_of(samples) if isinstance(prompt, JointPrompt) else len(samples)
        sampling = self._sampling(first, count, prompt)
        last: Any = None
        async for output in self.engine.generate(
            tokens_input(tokens), sampling, first.unit, lora_request=self.lora_request
        ):
            last = output
        cached = last.num_cached_tokens or 0
        if isinstance(prompt, JointPrompt):
            total = len(tokens) + sum(len(one.token_ids) for one in last.outputs)
            objects = [(one.text, one.finish_reason) for one in last.outputs]
            answers = joint_answers(samples, prompt, objects, (total, len(tokens), cached))
        else:
            written = [Written(one.text, one.finish_reason, len(one.token_ids)) for one in last.outputs]
            written[0] = replace(
                written[0], tokens=written[0].tokens + len(tokens), prompt_tokens=len(tokens), cached_tokens=cached
            )
            answers = answered(samples, prompt, written)
        return [replace(answer, is_cut=is_cut) for answer in answers]

    def _shortened(self, samples: list[Request], longest: int) -> tuple[Prompt | JointPrompt, list[int]] | None:
        """A prompt of at most `longest` tokens, with as much of the passage as it holds; None if that is nothing."""

        def rendered(shorter: Request) -> tuple[Prompt | JointPrompt, list[int]]:
            return self._rendered([replace(one, text=shorter.text) for one in samples])

        characters = self.settings.prompt_characters
        shorter = fitted(samples[0], characters, longest, lambda one: len(rendered(one)[1]))
        return rendered(shorter) if shorter else None

    def _rendered(self, samples: list[Request]) -> tuple[Prompt | JointPrompt, list[int]]:
        """The prompt and its token ids; special tokens that stand in its texts are text."""
        from jinja2 import TemplateError

        prompt: Prompt | JointPrompt
        if self.layout == "json":
            prompt = joint_prompt(self.prompter, samples, self.style)
        else:
            prompt = self.prompter.prompt(samples[0], self.style, self.layout)
        try:
            read = without_special_tokens(prompt, self._special)
            return prompt, token_ids(self.tokenizer, read, self.settings.chat_template_kwargs)
        except TemplateError as error:
            raise InputError(
                f"generation.model: the chat template of '{self.settings.model}' refuses the prompt ({error}). Some "
                "take no system message: leave generation.system_prompt out, or set generation.prompt: completion."
            ) from error

    def _sampling(self, request: Request, count: int, prompt: Prompt | JointPrompt) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        kind = self.prompter.types[request.query_type]
        sampling: dict[str, Any] = dict(kind.sampling)  # vLLM has the same names
        if isinstance(prompt, JointPrompt):
            sampling = self.settings.sampling.model_dump(exclude_none=True)
            sampling["structured_outputs"] = StructuredOutputsParams(json=prompt.schema, disable_any_whitespace=True)
            most, end = prompt.max_tokens, []
        else:
            most, end = kind.max_tokens, stops(kind, prompt.style)
        # CPU generators have no offset, which vLLM needs for seeds of requests: there the engine has the seed
        seeded = self.settings.request_seeds and not self.is_cpu
        return SamplingParams(
            n=count,
            max_tokens=most,
            stop=end,
            seed=unit_seed(self.settings.seed, request.unit) if seeded else None,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **sampling,
        )

    def close(self) -> None:
        """Ends the engine's processes."""
        self._rendering.shutdown(wait=False, cancel_futures=True)
        self.engine.shutdown()
