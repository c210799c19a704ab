"""Runs a function on W gloo ranks, each a process of its own, as torchrun would."""

from __future__ import annotations

import multiprocessing
import os
import queue
import socket
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from typing import Any
from unittest import mock

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
# imported once, in a server that every rank is forked from; no tensor is made there, so no thread of torch's is lost
PRELOADED = [
    "torch",
    "deepspeed",
    "sentence_transformers",
    "transformers.models.bert.modeling_bert",
    "distill.training.trainer",
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _rank(function: Callable, rank: int, world_size: int, port: int, arguments: tuple, results: Any) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_PORT=str(port), **ENVIRONMENT
    )
    import torch

    torch.set_num_threads(1)
    try:
        results.put((rank, function(rank, world_size, *arguments), None))
    except BaseException:
        results.put((rank, None, traceback.format_exc()))


def on_ranks(function: Callable, world_size: int, *arguments: Any, timeout_s: float = 240) -> list[Any]:
    """Results of `function(rank, world_size, *arguments)` by rank; the first rank's traceback if one fails."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, ENVIRONMENT):
        forkserver.ensure_running()
    results, port = context.Queue(), free_port()
    processes = [
        context.Process(target=_rank, args=(function, rank, world_size, port, arguments, results))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        found, errors = {}, {}
        for _ in processes:
            try:
                rank, value, error = results.get(timeout=timeout_s if not errors else 20)
            except queue.Empty:
                assert errors, f"no rank of {world_size} answered within {timeout_s} s"
                break  # killed without a word
            found[rank] = value
            if error:
                errors[rank] = error
    finally:
        for process in processes:
            process.join(timeout=20)
            if process.is_alive():
                process.kill()
    # A rank that fails takes the others with it: theirs is a closed connection, the cause is elsewhere.
    first = sorted(errors, key=lambda rank: "Connection closed by peer" in errors[rank])
    assert not errors, f"rank {first[0]} of {world_size}:\n{errors[first[0]]}"
    return [found[rank] for rank in range(world_size)]
