"""The DeepSpeed engine around a student, and the process group below it."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from cluster.machines.garbage_collector import collector_at_rest
from cluster.machines.malloc import keep_memory
from distill.settings import TrainingSettings

if TYPE_CHECKING:
    from distill.encoders.module import Student

T = TypeVar("T")


def rank_device() -> str:
    """Where this rank computes: its own GPU, "cuda:1", or "cpu" where it sees none or was put into a group of gloo.

    A rank that sees all GPUs of its node takes the one of its local rank; one that was given a single GPU takes that,
    whatever its local rank is. The GPU becomes this process's current one, and LOCAL_RANK its number, as DeepSpeed
    expects.
    """
    _names_of_slurm()
    if not torch.cuda.is_available() or (dist.is_initialized() and dist.get_backend() == "gloo"):
        return "cpu"
    number = own_gpu(int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count())
    os.environ["LOCAL_RANK"] = str(number)
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def own_gpu(local_rank: int, visible: int) -> int:
    """Number of this rank's GPU among those that it sees."""
    return local_rank % visible


def _names_of_slurm() -> None:
    """Under `srun`, lets SLURM's variables stand for those of torchrun."""
    for name, slurm in (("RANK", "SLURM_PROCID"), ("WORLD_SIZE", "SLURM_NTASKS"), ("LOCAL_RANK", "SLURM_LOCALID")):
        if name not in os.environ and "MASTER_ADDR" in os.environ and slurm in os.environ:
            os.environ[name] = os.environ[slurm]


def join_ranks(device: str, timeout_s: float = 1800.0) -> tuple[int, int]:
    """(rank, world size) of this process; joins the group that torchrun, srun or Ray Train describe, if any.

    The group is what RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say; SLURM's variables stand in under `srun`.
    Without any, this process is alone. NCCL on GPUs, gloo on CPUs.
    """
    _names_of_slurm()
    if not dist.is_initialized():
        backend, limit = "nccl" if device.startswith("cuda") else "gloo", timedelta(seconds=timeout_s)
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=limit)
        else:
            dist.init_process_group(backend, timeout=limit, store=dist.HashStore(), rank=0, world_size=1)
    return dist.get_rank(), dist.get_world_size()


def same_everywhere(value: Any) -> Any:
    """What rank 0 has, on every rank: for what a shared file system may answer them unlike."""
    holder = [value]
    dist.broadcast_object_list(holder)
    return holder[0]


def everywhere(holds: bool) -> bool:
    """Whether it holds on every rank; called by all of them."""
    if not dist.is_initialized():
        return holds
    answers: list[bool] = [False] * dist.get_world_size()
    dist.all_gather_object(answers, holds)
    return all(answers)


def ranks_here() -> int:
    """How many ranks are on this machine; called by all of them."""
    names: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(names, socket.gethostname())
    return names.count(socket.gethostname())


def from_first(call: Callable[[], T]) -> T:
    """What `call` gives on rank 0, on every rank; or the error that it raises there."""
    result: Any = None
    if dist.get_rank() == 0:
        try:
            result = call()
        except Exception as error:
            result = error
    result = same_everywhere(result)
    if isinstance(result, Exception):
        raise result
    return result


def start_engine(student: Student, training: TrainingSettings, world_size: int) -> Any:
    """DeepSpeed engine with AdamW, gradient clipping and the recipe's ZeRO stage. Weights and reduction are float32."""
    if student.device == "cpu":
        keep_memory()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if student.device.startswith("cuda") else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with collector_at_rest():
        import deepspeed

    if student.device == "cpu":
        # an all-reduce for inference, that training never calls and DeepSpeed would have compiled here
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    decayed = [each for each in student.parameters() if each.requires_grad and each.ndim >= 2]
    plain = [each for each in student.parameters() if each.requires_grad and each.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=training.learning_rate,
        fused=True,
    )
    config = deepspeed_settings(training, world_size, sum(each.numel() for each in (*decayed, *plain)))
    engine, *_ = deepspeed.initialize(model=student, optimizer=optimizer, config=config, dist_init_required=False)
    engine.train()
    engine.module.eval()  # no dropout: a passage has one embedding
    return engine


def deepspeed_settings(training: TrainingSettings, world_size: int, gradients: int) -> dict[str, Any]:
    """What DeepSpeed is told, for so many elements of gradients."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed wants a number; batches are planned here
        "gradient_accumulation_steps": 1,
        "train_batch_size": world_size,
        "gradient_clipping": training.gradient_clip,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": None,
        "timers": {"throughput": {"enabled": False}},  # it waits for the GPU before every forward pass
        "zero_optimization": {
            "stage": training.zero_stage,
            "overlap_comm": False,
            "contiguous_gradients": True,
            # DeepSpeed makes a buffer of this many elements, 2 GB by default: no more than there are gradients.
            "reduce_bucket_size": min(gradients, 500_000_000),
            # Parameters of small encoders are cheaper to keep than to gather.
            "stage3_param_persistence_threshold": 10_000,
        },
    }


def step_optimizer(engine: Any) -> float:
    """Clips the reduced gradient, steps the optimizer, clears the gradient. Returns the norm before clipping."""
    before = 0.0
    if engine.zero_optimization_stage() == 0:  # where DeepSpeed clips without telling the norm
        gradients = [each.grad for each in engine.module.parameters() if each.grad is not None]
        before = float(torch.nn.utils.get_total_norm(gradients))
    engine.step()
    norm = engine.get_global_grad_norm()
    return before if norm is None else float(norm)
