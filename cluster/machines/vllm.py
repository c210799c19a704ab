"""What every vLLM engine of Listwise is started with, whether it writes queries or scores pairs."""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from cluster.machines.own_folder import own_folder, root_of

CPU_CACHE_BYTES = 2**30  # of keys and values; without a figure the CPU engine takes a share of all memory
# arguments of an engine that gives log-probabilities of prompts: it makes the logits of all tokens that it reads in one
# step, outside of the memory that it plans
LIKELIHOOD_ARGS = {"max_num_batched_tokens": 2048}
SAFE_FORMATS = ("safetensors", "fastsafetensors", "instanttensor", "runai_streamer", "mistral", "dummy")
# On CPUs the model runs in vLLM's engine process. Otherwise that process polls one that runs the model, which takes a
# core. vLLM does not accept the short name "uni" on CPUs, because threads must then be set outside: Ray sets them.
CPU_EXECUTOR = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
SOCKETS = "VLLM_RPC_BASE_PATH"  # the variable that says where vLLM makes sockets
SOCKET_NAME = 37  # characters: a slash and a UUID
MAX_SOCKET = 107  # characters of a path, of Linux
_QUIET = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}


def quiet() -> None:
    """Keeps vLLM from logging its progress and from sending statistics. Called before it is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


def keep_sockets_private() -> None:
    """Has vLLM make its sockets in a folder of this process, unless the environment names another place.

    By itself it makes them among the temporary files of all users, where those of a killed engine stay for ever. A path
    that is too long for a socket leaves it so. Called before an engine is started.

    Raises:
        InputError: other users can enter the folder for temporary files.
    """
    named = os.environ.get(SOCKETS)
    if named and Path(named).parent != root_of("sockets"):  # an inherited one is another process's
        return
    folder = str(own_folder("sockets"))
    if len(folder) + SOCKET_NAME <= MAX_SOCKET:
        os.environ[SOCKETS] = folder


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
