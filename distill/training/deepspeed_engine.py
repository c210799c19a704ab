"""The DeepSpeed engine around a student: optimizer, gradient clipping and ZeRO stage."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from cluster.machines.garbage_collector import garbage_collection_off
from cluster.machines.malloc import keep_freed_memory
from distill.settings.training import TrainingSettings


class Trained(Protocol):
    """A module that can be trained: the student, or a cross-encoder."""

    device: str

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """All of its weights; those that `requires_grad` are trained."""
        ...


def start_engine(student: Trained, training: TrainingSettings, world_size: int) -> Any:
    """DeepSpeed engine with AdamW, gradient clipping and the recipe's ZeRO stage. Weights and reduction are float32."""
    if student.device == "cpu":
        keep_freed_memory()
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if student.device.startswith("cuda") else "cpu")
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    with garbage_collection_off():
        import deepspeed

    if student.device == "cpu":
        # DeepSpeed would compile this all-reduce here; only inference calls it
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    trained = [weight for weight in student.parameters() if weight.requires_grad]
    decayed = [weight for weight in trained if weight.ndim >= 2]
    plain = [weight for weight in trained if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": training.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=training.learning_rate,
        fused=True,
    )
    config = deepspeed_settings(training, world_size, sum(weight.numel() for weight in trained))
    engine, *_ = deepspeed.initialize(model=student, optimizer=optimizer, config=config, dist_init_required=False)
    engine.train()
    engine.module.eval()  # no dropout: a passage has one embedding
    return engine


def deepspeed_settings(training: TrainingSettings, world_size: int, gradients: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a student with so many elements of gradients."""
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
