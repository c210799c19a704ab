"""What a device can do, from its maker's data sheet; what this machine's CPU does is measured, in some seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

GB = 1e9
GIB = 2**30
SHAPE = (4096, 384, 1536)  # of the product that a CPU is timed with: a small encoder's largest
TRIALS, PAUSE_S = 40, 0.05  # of it, spread over seconds: others may be at work, a run's first stages among them


@dataclass(frozen=True)
class Device:
    """Peak of dense bfloat16 matrix products (FLOP/s), memory (bytes), and how fast that is read (bytes/s)."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    is_gpu: bool = True


# nvidia.com, data sheets of each product; dense figures, which are half of those "with sparsity".
GPUS = {
    each.name: each
    for each in (
        Device("a10", 125e12, 24 * GB, 600 * GB),
        Device("l4", 121e12, 24 * GB, 300 * GB),
        Device("l40s", 362e12, 48 * GB, 864 * GB),
        Device("a100-40", 312e12, 40 * GB, 1555 * GB),
        Device("a100", 312e12, 80 * GB, 2039 * GB),
        Device("h100", 989e12, 80 * GB, 3350 * GB),
        Device("h200", 989e12, 141 * GB, 4800 * GB),
        Device("b200", 2250e12, 180 * GB, 7700 * GB),
    )
}


def visible_gpu() -> Device | None:
    """The GPU of this machine, if it has one: its data sheet's speed, its own memory."""
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    words = found.name.lower().replace("-", " ").split()
    known = next((each for name, each in GPUS.items() if name.split("-")[0] in words), None)
    speed = (known.flops, known.bandwidth) if known else (100e12, 500 * GB)
    return Device(found.name, speed[0], float(found.total_memory), speed[1])


def this_cpu() -> Device:
    """All cores of this machine together, in the dtype that encoders use here."""
    import torch

    from cluster.machines.memory import machine_memory
    from distill.encoders.device import resolve_dtype

    dtype, (rows, inner, columns) = resolve_dtype("auto", "cpu"), SHAPE
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    fastest, copied = float("inf"), float("inf")
    large = torch.ones(1 << 24)
    for _ in range(TRIALS):
        time.sleep(PAUSE_S)
        begun = time.perf_counter()
        left @ right
        fastest = min(fastest, time.perf_counter() - begun)
        begun = time.perf_counter()
        large.clone()
        copied = min(copied, time.perf_counter() - begun)
    cores = torch.get_num_threads()
    name = f"this CPU, {cores} {'core' if cores == 1 else 'cores'}"
    speed, memory = 2 * rows * inner * columns / fastest, float(machine_memory().total)
    return Device(name, speed, memory, 8 * len(large) / copied, is_gpu=False)
