"""LoRA adapters (Hu et al., arXiv 2106.09685) for students too large to train whole; peft adds and merges them.

Only the adapters have gradients and optimizer moments, and only they are saved in checkpoints. The exported student has
their product merged into its own weights, so it needs no peft and is as fast as its base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cluster.errors import InputError
from distill.settings.encoders import LoraSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def add_adapters(model: SentenceTransformer, lora: LoraSettings, seed: int) -> None:
    """Adds adapters to the linear layers of a student's transformer and freezes the transformer's own weights.

    Args:
        model: the student. Its embeddings do not change at first, since one factor of each adapter begins at zero.
        lora: rank, scale and names of the layers.
        seed: seed of the other factor's random values.

    Raises:
        InputError: the student has no transformer, or its transformer has no linear layer of a given name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    transformer = model.transformers_model
    if transformer is None:
        raise InputError(
            "student.lora: the student has no transformer that adapters can change; leave student.lora out."
        )
    layers = {
        name.rsplit(".", 1)[-1] for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)
    }
    targets = lora.target_modules or sorted(layers)
    if unknown := [name for name in targets if name.rsplit(".", 1)[-1] not in layers]:
        raise InputError(
            f"student.lora.target_modules: the student has no linear layer called {', '.join(unknown)}; "
            f"it has {', '.join(sorted(layers))}."
        )
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, lora_dropout=lora.dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, transformer)


def merge_adapters(model: SentenceTransformer) -> None:
    """Adds the product of every adapter to its layer's weights, and removes the adapter; without adapters, nothing."""
    transformer = model.transformers_model
    if transformer is None or not any("lora_" in name for name, _ in transformer.named_parameters()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(transformer.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config
    transformer.requires_grad_(True)
