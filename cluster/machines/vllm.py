"""What every vLLM engine of Listwise is started with, whether it writes queries or scores pairs."""

from __future__ import annotations

import os

from pydantic import ValidationError

CPU_CACHE_BYTES = 2**30  # of keys and values; without a figure the CPU engine takes a share of all memory
SAFE_FORMATS = ("safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "mistral", "dummy")
# On CPUs the model runs in vLLM's engine process. Otherwise that process polls one that runs the model, which takes a
# core. vLLM does not accept the short name "uni" on CPUs, because threads must then be set outside: Ray sets them.
CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
_QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


def quiet() -> None:
    """Keeps vLLM from logging its progress and from sending statistics. Called before it is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def use_all_cores() -> None:
    """Has an engine on CPUs take all cores where Ray has not said how many it holds. Called before it is started."""
    os.environ.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))


def first_sentence(error: Exception) -> str:
    """What an error of vLLM says first, on one line."""
    text = str(error)
    if isinstance(error, ValidationError):
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
    first = " ".join(text.split()).split(". ")[0].rstrip(".")
    return f"{first or type(error).__name__}."
