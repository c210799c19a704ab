"""The part of DeepSpeed's engine that a step on one rank uses, for a machine without DeepSpeed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from distill.encoders.module import EncoderModule
from distill.settings.training import TrainingSettings
from distill.training.deepspeed_engine import start_engine


class PlainEngine:
    """AdamW with clipping, in torch alone.

    Args:
        module: the student.
        training: learning rate, weight decay and the most that a gradient may be.
    """

    def __init__(self, module: EncoderModule, training: TrainingSettings) -> None:
        self.module = module.eval()
        self.device = torch.device(module.device)
        self._clip = training.gradient_clip
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay, fused=True
        )

    def __call__(self, **features: Any) -> torch.Tensor:
        """The module's embeddings."""
        return self.module(**features)

    def backward(self, loss: torch.Tensor, scale_wrt_gas: bool = False) -> None:
        """Adds to the gradients."""
        loss.backward()

    def zero_optimization_stage(self) -> int:
        """Nothing is divided."""
        return 0

    def set_gradient_accumulation_boundary(self, is_boundary: bool) -> None:
        """There is nobody to reduce with."""

    def step(self) -> None:
        """Clips, steps, clears."""
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), self._clip)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def get_global_grad_norm(self) -> None:
        """As DeepSpeed's without ZeRO: it is not told."""


def start(module: EncoderModule, training: TrainingSettings) -> Any:
    """DeepSpeed's engine for one rank; without DeepSpeed the plain one."""
    if find_spec("deepspeed") is None:
        return PlainEngine(module, training)
    return start_engine(module, training, 1)
