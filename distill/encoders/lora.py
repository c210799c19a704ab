"""LoRA adapters (Hu et al., arXiv 2106.09685) for students too large to train whole; peft puts them in and merges them.

Only the adapters have gradients, moments and a place in checkpoints. The exported student holds their product in its
own weights, so that who loads it needs no peft and loses no speed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cluster.errors import InputError
from distill.settings import LoraSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def add_adapters(model: SentenceTransformer, lora: LoraSettings, seed: int) -> None:
    """Puts adapters beside the linear layers of a student's transformer and freezes everything else of it.

    Args:
        model: the student; it computes what it did before, since one factor of each adapter begins at zero.
        lora: rank, scale and the layers.
        seed: of the other factor.

    Raises:
        InputError: the transformer has no layer of that name.
    """
    from peft import LoraConfig, inject_adapter_in_model

    transformer = model.transformers_model
    if transformer is None:
        raise InputError("student.lora: the student has no transformer to put adapters into; leave student.lora out.")
    layers = {
        name.rsplit(".", 1)[-1] for name, each in transformer.named_modules() if isinstance(each, torch.nn.Linear)
    }
    wanted = lora.target_modules or sorted(layers)
    if unknown := [name for name in wanted if name.rsplit(".", 1)[-1] not in layers]:
        raise InputError(
            f"student.lora.target_modules: the student has no linear layer called {', '.join(unknown)}; "
            f"it has {', '.join(sorted(layers))}."
        )
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=wanted, lora_dropout=lora.dropout)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        inject_adapter_in_model(config, transformer)


def merge_adapters(model: SentenceTransformer) -> None:
    """Adds every adapter's product to the weights beside it and takes the adapter out."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    transformer = model.transformers_model
    assert transformer is not None
    for parent in list(transformer.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(parent, name, child.get_base_layer())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config
