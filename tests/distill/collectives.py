"""Counts the collectives of torch.distributed as its dispatcher sees them, whoever calls them by whatever name."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Collectives(TorchDispatchMode):
    """While it is entered, `calls` grows by (operation, number of elements that this rank puts in)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function.namespace == "c10d":
            self.calls.append((function._opname, sum(each.numel() for each in _tensors(args))))
        return function(*args, **(kwargs or {}))


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [tensor for each in value for tensor in _tensors(each)]
    return [value] if hasattr(value, "numel") else []
