"""Collectives on Python objects: small agreements between the ranks of a process group. Every rank must call them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def broadcast_object(value: Any) -> Any:
    """Rank 0's value, on every rank. A shared file system may answer the ranks differently."""
    holder = [value]
    dist.broadcast_object_list(holder)
    return holder[0]


def all_ranks(holds: bool) -> bool:
    """Whether a condition holds on every rank."""
    if not dist.is_initialized():
        return holds
    answers: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(answers, holds)
    return all(answers)


def ranks_on_this_machine() -> int:
    """Number of ranks on this machine."""
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname())
    return names.count(socket.gethostname())


def run_on_rank_0(call: Callable[[], T]) -> T:
    """Result of a call that rank 0 makes, on every rank; an error that it raises is raised on every rank."""
    result: Any = None
    if dist.get_rank() == 0:
        try:
            result = call()
        except Exception as error:
            result = error
    result = broadcast_object(result)
    if isinstance(result, Exception):
        raise result
    return result
