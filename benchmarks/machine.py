"""Measurements of the machine during a benchmark: the speed of its matrix products, and the memory of this process."""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path

import psutil
import torch

PEAK_PASSES = 50  # passes of a layer's products, of which the fastest is the peak
EVERY = 3  # forward passes of a step between two measurements of the products' speed


def now(device: str = "cpu") -> float:
    """Seconds of a monotonic clock, when the device has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Products:
    """The matrix products of one layer alone; their speed is the peak that a training step is compared with.

    A pass computes them in the order of training, forward and then backward. As in a layer, each product has its own
    operands.

    Args:
        dtype: of the products.
        hidden, inner, heads: shape of the encoder's layer.
        length: tokens of a sequence.
        micro_batch: tokens of a micro-batch, which holds as many sequences as fit.
        device: of the operands.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        hidden: int,
        inner: int,
        heads: int,
        length: int,
        micro_batch: int,
        device: str = "cpu",
    ) -> None:
        self.device = device
        tokens, width = micro_batch // length * length, hidden // heads
        sequences = (tokens // length, heads, length)
        forward, backward = [], []

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape).to(device, dtype)

        def linear(inputs: int, outputs: int) -> None:
            x, weight, gradient = random(tokens, inputs), random(outputs, inputs), random(tokens, outputs)
            forward.append((x, weight.T))
            backward.extend([(gradient, weight), (gradient.T, x)])

        for _ in range(3):  # projections to queries, keys and values
            linear(hidden, hidden)
        query, key, value, gradient = (random(*sequences, width) for _ in range(4))
        weights, score_gradient = random(*sequences, length), random(*sequences, length)
        forward += [(query, key.transpose(-1, -2)), (weights, value)]
        backward += [(weights.transpose(-1, -2), gradient), (gradient, value.transpose(-1, -2))]
        backward += [(score_gradient, key), (score_gradient.transpose(-1, -2), query)]
        for inputs, outputs in ((hidden, hidden), (hidden, inner), (inner, hidden)):  # linear layers after attention
            linear(inputs, outputs)
        self.products = forward + backward[::-1]
        self.operations = sum(2 * left.numel() * right.shape[-1] for left, right in self.products)

    def seconds(self) -> float:
        """Seconds of one pass."""
        start = now(self.device)
        for left, right in self.products:
            left @ right
        return now(self.device) - start

    def best(self) -> float:
        """Floating-point operations per second in the fastest of `PEAK_PASSES` passes."""
        return self.operations / min(self.seconds() for _ in range(PEAK_PASSES))


class SpeedDuringStep:
    """A context that measures the speed of the products during a step.

    After every `EVERY` forward passes of the student it makes two passes of the products. The first one brings the
    operands into the caches, the second one is timed. `taken` is the time of both, which is no part of the step.
    """

    def __init__(self, products: Products, student: torch.nn.Module) -> None:
        self.products, self.taken, self.timed, self._calls = products, 0.0, [], 0
        self._hook = student.register_forward_pre_hook(self._between)

    def __enter__(self) -> SpeedDuringStep:
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _between(self, *_: object) -> None:
        self._calls += 1
        if self._calls % EVERY == 1 and self.products.device == "cpu":  # a GPU's speed does not change so
            start = time.perf_counter()
            self.products.seconds()
            self.timed.append(self.products.seconds())
            self.taken += time.perf_counter() - start

    @property
    def flops(self) -> float:
        """Mean speed in floating-point operations per second."""
        return self.products.operations * len(self.timed) / sum(self.timed) if self.timed else self.products.best()


def touch(size: int) -> None:
    """Gets `size` bytes of memory from the system and leaves them to glibc, because the first use of memory is slow."""
    tensors = [torch.ones(2**24, dtype=torch.uint8) for _ in range(size // 2**24)]
    del tensors


class Peak:
    """A context that measures the peak resident memory of this process in GiB, every 20 ms."""

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
    fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    name = fields.get("model name", platform.processor())
    family = f" (family {fields['cpu family']}, model {fields['model']})" if "cpu family" in fields else ""
    return f"{name}{family}, {len(os.sched_getaffinity(0))} cores"
