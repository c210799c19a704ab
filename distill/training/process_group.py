"""The process group of a training: which rank this process is, and on which device it computes."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from distill.training.rendezvous import all_on_this_machine, env_store

PORT = "29500"  # torchrun's own default
LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"  # the interface of that name


def rank_device() -> str:
    """Device of this rank: its own GPU, such as "cuda:1"; "cpu" where it sees no GPU, or was given none.

    A rank was given none if its process group is gloo's, or if Ray Train says so (`ACCELERATE_TORCH_DEVICE`).
    A rank that sees all GPUs of its node takes the one with the number of its local rank. A rank that sees a single GPU
    takes that one. The GPU becomes the current one of this process, and LOCAL_RANK its number, as DeepSpeed expects.
    """
    _names_of_slurm()
    without = os.environ.get("ACCELERATE_TORCH_DEVICE") == "cpu"
    if not torch.cuda.is_available() or without or (dist.is_initialized() and dist.get_backend() == "gloo"):
        return "cpu"
    number = own_gpu(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count())
    os.environ["LOCAL_RANK"] = str(number)
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def own_gpu(local_rank: int, visible: int) -> int:
    """Number of this rank's GPU among those that it sees."""
    return local_rank % visible


def _names_of_slurm() -> None:
    """Sets torchrun's variables from SLURM's, under `srun`."""
    if "MASTER_ADDR" in os.environ and "SLURM_PROCID" in os.environ:
        os.environ.setdefault("MASTER_PORT", PORT)
    for name, slurm in (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_NTASKS"), ("LOCAL_RANK", "SLURM_LOCALID")):
        if name not in os.environ and "MASTER_ADDR" in os.environ and slurm in os.environ:
            os.environ[name] = os.environ[slurm]


def join_ranks(device: str, timeout_s: float = 1800.0) -> tuple[int, int]:
    """(rank, world size) of this process, after joining the process group that torchrun, srun or Ray Train describe.

    RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT describe the group; under `srun` SLURM's variables are used. Without
    them, or alone, this process is a group of its own. GPUs use NCCL, CPUs use gloo. torchrun serves the store itself;
    otherwise rank 0 does (`distill/training/rendezvous.py`).
    """
    _names_of_slurm()
    if not dist.is_initialized():
        backend, limit = "nccl" if device.startswith("cuda") else "gloo", timedelta(seconds=timeout_s)
        if "RANK" in os.environ and os.environ.get("WORLD_SIZE") != "1":
            if all_on_this_machine(os.environ.get("MASTER_ADDR", "")):
                os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                dist.init_process_group(backend, timeout=limit)
            else:
                rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
                dist.init_process_group(backend, timeout=limit, store=env_store(limit), rank=rank, world_size=ranks)
        else:
            dist.init_process_group(backend, timeout=limit, store=dist.HashStore(), rank=0, world_size=1)
    return dist.get_rank(), dist.get_world_size()
