"""Small agreements between the ranks of a process group, on Python objects."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def broadcast_object(value: Any) -> Any:
    """What rank 0 has, on every rank: for what a shared file system may answer them unlike."""
    holder = [value]
    dist.broadcast_object_list(holder)
    return holder[0]


def all_ranks(holds: bool) -> bool:
    """Whether it holds on every rank; called by all of them."""
    if not dist.is_initialized():
        return holds
    answers: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(answers, holds)
    return all(answers)


def ranks_on_this_machine() -> int:
    """How many ranks are on this machine; called by all of them."""
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname())
    return names.count(socket.gethostname())


def run_on_rank_0(call: Callable[[], T]) -> T:
    """What `call` gives on rank 0, on every rank; or the error that it raises there."""
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
