"""A count of the tokens that a transformer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class TokenCounter:
    """Counter of the tokens that a transformer reads, without padding; counting does not wait for the device.

    Args:
        transformer: module whose inputs have an `attention_mask`; a hook before its forward pass counts.
    """

    def __init__(self, transformer: torch.nn.Module) -> None:
        self._count: Any = 0
        transformer.register_forward_pre_hook(self._add, with_kwargs=True)

    def _add(self, module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        features = arguments[0] if arguments else named
        if "attention_mask" in features:
            self._count = self._count + features["attention_mask"].sum()

    def take(self) -> int:
        """Returns the number of tokens since the last call, and starts again at 0."""
        count, self._count = int(self._count), 0
        return count
