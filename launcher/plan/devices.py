"""Speed and memory of devices: GPUs by their data sheets; the CPU of this machine by a measurement of some seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cluster.machines.processor import has_bfloat16

GB = 1e9
GIB = 2**30
SHAPE = (4096, 384, 1536)  # of the timed matrix product: the largest of a small encoder
# The trials are spread over seconds, because other processes may use the CPU, such as the first stages of the run.
TRIALS, PAUSE_S = 40, 0.05


@dataclass(frozen=True)
class Device:
    """A device: its peak of dense bfloat16 matrix products (FLOP/s), memory (bytes), memory bandwidth (bytes/s)."""

    name: str
    flops: float
    memory: float
    bandwidth: float
    is_gpu: bool = True


# Source: the data sheets on nvidia.com. Figures are for dense products, which are half of those "with sparsity".
GPUS = {
    device.name: device
    for device in (
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


def bytes_of_number(dtype: str, on_gpu: bool) -> int:
    """Bytes of a number in a recipe's dtype. Others than these (auto, empty) are the device's own choice.

    That is a dtype of 16 bits, or float32 on a CPU without instructions for bfloat16.
    """
    own = 2 if on_gpu or has_bfloat16() else 4
    return {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}.get(dtype, own)


def visible_gpu() -> Device | None:
    """The GPU of this machine, or None. Its speed comes from the data sheet, its memory from the driver."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    words = properties.name.lower().replace("-", " ").split()
    known = next((device for name, device in GPUS.items() if name.split("-")[0] in words), None)
    speed = (known.flops, known.bandwidth) if known else (100e12, 500 * GB)
    return Device(properties.name, speed[0], float(properties.total_memory), speed[1])


def this_cpu() -> Device:
    """All cores of this machine as one device, measured in the dtype that encoders use here."""
    import torch

    from cluster.machines.memory import machine_memory
    from distill.encoders.device import resolve_dtype

    dtype, (rows, inner, columns) = resolve_dtype("auto", "cpu"), SHAPE
    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    product_s, copy_s = float("inf"), float("inf")  # of the fastest trial
    large = torch.ones(1 << 24)
    for _ in range(TRIALS):
        time.sleep(PAUSE_S)
        start = time.perf_counter()
        left @ right
        product_s = min(product_s, time.perf_counter() - start)
        start = time.perf_counter()
        large.clone()
        copy_s = min(copy_s, time.perf_counter() - start)
    cores = torch.get_num_threads()
    name = f"this CPU, {cores} {'core' if cores == 1 else 'cores'}"
    speed, memory = 2 * rows * inner * columns / product_s, float(machine_memory().total)
    return Device(name, speed, memory, 8 * len(large) / copy_s, is_gpu=False)
