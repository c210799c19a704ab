"""Two ways to compute the same, one after the other in turns: seconds, tokens, padding, and how far results differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

OURS, THEIRS = "ours", "theirs"


class TokenMeter:
    """Counts what a model's word embeddings are asked for: tokens, and tokens with padding.

    Args:
        model: a model of transformers.
        pad: token id of padding.
    """

    def __init__(self, model: Any, pad: int) -> None:
        self.pad, self.read, self.padded = pad, 0, 0
        model.get_input_embeddings().register_forward_pre_hook(self._count)

    def _count(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.read += int((inputs[0] != self.pad).sum())
        self.padded += inputs[0].numel()


@dataclass
class Contestant:
    """One way to compute.

    Attributes:
        compute: computes everything and returns the results, (n, …) float32.
        meter: of its model.
    """

    compute: Callable[[], np.ndarray]
    meter: TokenMeter
    seconds: list[float] = field(default_factory=list)
    results: np.ndarray = field(default_factory=lambda: np.empty(0))

    def turn(self) -> None:
        """Computes everything once."""
        self.meter.read = self.meter.padded = 0
        start = time.perf_counter()
        self.results = self.compute()
        self.seconds.append(time.perf_counter() - start)


def compare(contestants: dict[str, Contestant], turns: int) -> None:
    """Lets both compute in turns; the order changes from turn to turn."""
    names = list(contestants)
    for number in range(turns):
        for name in names if number % 2 == 0 else names[::-1]:
            contestants[name].turn()


def header(unit: str) -> str:
    """First lines of the table."""
    columns = ["dtype", "turn", "", "seconds", f"{unit}/s", "tokens/s", "padding", "ratio"]
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def rows(dtype: str, contestants: dict[str, Contestant], count: int) -> str:
    """Lines of the table for `count` texts or pairs; a turn's ratio is the time of theirs by the time of ours."""
    lines = []
    for turn in range(len(contestants[OURS].seconds)):
        for name, one in contestants.items():
            seconds, meter = one.seconds[turn], one.meter
            ratio = contestants[THEIRS].seconds[turn] / contestants[OURS].seconds[turn]
            lines.append(
                f"| {dtype} | {turn + 1} | {name} | {seconds:.2f} | {count / seconds:.1f} | "
                f"{meter.read / seconds:,.0f} | {1 - meter.read / meter.padded:.1%} | "
                f"{f'**{ratio:.2f}**' if name == OURS else ''} |"
            )
    return "\n".join(lines)
