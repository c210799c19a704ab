"""Counts the tokens that a transformer reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class TokenCounter:
    """Counts the tokens that go through a transformer, padding left out, without waiting for the device."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        self._count: Any = 0
        transformer.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, module: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        features = arguments[0] if arguments else named
        if "attention_mask" in features:
            self._count = self._count + features["attention_mask"].sum()

    def take(self) -> int:
        """Tokens since the last call."""
        count, self._count = int(self._count), 0
        return count
