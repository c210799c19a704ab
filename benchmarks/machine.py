"""What the machine could do while something was measured: its matrix products' speed, and the memory that was taken."""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path

import psutil
import torch

PEAK_PASSES = 50  # of a layer's products
EVERY = 3  # forward passes of a step, between two looks at the products' speed


class Products:
    """The matrix products of a layer and nothing else: their speed is the peak that a step is measured against.

    A pass makes them in the order of training, forward and then backward, each with operands of its own, as a layer
    has them.

    Args:
        dtype: of the products.
        hidden, inner, heads: of the encoder's layer.
        length: tokens of a sequence.
        micro_batch: tokens; it holds as many sequences as they make.
    """

    def __init__(self, dtype: torch.dtype, hidden: int, inner: int, heads: int, length: int, micro_batch: int) -> None:
        tokens, width = micro_batch // length * length, hidden // heads
        sequences = (tokens // length, heads, length)
        forward, backward = [], []

        def made(*shape: int) -> torch.Tensor:
            return torch.randn(shape).to(dtype)

        def linear(inputs: int, outputs: int) -> None:
            x, weight, gradient = made(tokens, inputs), made(outputs, inputs), made(tokens, outputs)
            forward.append((x, weight.T))
            backward.extend([(gradient, weight), (gradient.T, x)])

        for _ in range(3):  # to queries, keys and values
            linear(hidden, hidden)
        query, key, value, gradient = (made(*sequences, width) for _ in range(4))
        weights, for_scores = made(*sequences, length), made(*sequences, length)
        forward += [(query, key.transpose(-1, -2)), (weights, value)]
        backward += [(weights.transpose(-1, -2), gradient), (gradient, value.transpose(-1, -2))]
        backward += [(for_scores, key), (for_scores.transpose(-1, -2), query)]
        for inputs, outputs in ((hidden, hidden), (hidden, inner), (inner, hidden)):  # after attention
            linear(inputs, outputs)
        self.products = forward + backward[::-1]
        self.operations = sum(2 * left.numel() * right.shape[-1] for left, right in self.products)

    def seconds(self) -> float:
        """Time of one pass."""
        begun = time.perf_counter()
        for left, right in self.products:
            left @ right
        return time.perf_counter() - begun

    def best(self) -> float:
        """Floating-point operations per second of the fastest of many passes, one after another."""
        return self.operations / min(self.seconds() for _ in range(PEAK_PASSES))


class Meanwhile:
    """The speed of the products while a step runs: between its forward passes, every so many, two passes of them.

    The first brings the operands back into the caches, the second is timed. What both take is no part of the step.
    """

    def __init__(self, products: Products, student: torch.nn.Module) -> None:
        self.products, self.taken, self.timed, self._calls = products, 0.0, [], 0
        self._hook = student.register_forward_pre_hook(self._between)

    def __enter__(self) -> Meanwhile:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _between(self, *_: object) -> None:
        self._calls += 1
        if self._calls % EVERY == 1:
            begun = time.perf_counter()
            self.products.seconds()
            self.timed.append(self.products.seconds())
            self.taken += time.perf_counter() - begun

    @property
    def flops(self) -> float:
        """Mean speed, floating-point operations per second."""
        return self.products.operations * len(self.timed) / sum(self.timed)


def touch(size: int) -> None:
    """Takes so many bytes from the system and leaves them to glibc, for that is slow the first time."""
    held = [torch.ones(2**24, dtype=torch.uint8) for _ in range(size // 2**24)]
    del held


class Peak:
    """Most resident memory of this process while the context lasts, in GiB, looked at every 20 ms."""

    def __enter__(self) -> Peak:
        self.gib, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.02):
            self.gib = max(self.gib, process.memory_info().rss / 2**30)


def processor() -> str:
    """Name of this machine's processor and its cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split("\t: ", 1) for line in lines if "\t: " in line)
    name = fields.get("model name", platform.processor())
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return f"{name}{family}, {len(os.sched_getaffinity(0))} cores"
