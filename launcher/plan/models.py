"""How large a model is: from its configuration where this machine has it, else from its name.

A configuration alone tells every weight: the model is built on torch's "meta" device, where tensors have shapes alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from launcher.plan.corpus import model_file

BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)  # "Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class Model:
    """Size of a model.

    Attributes:
        parameters: all of them, each once.
        matrices: weights that every token goes through: no embedding tables, but the head that writes tokens.
        layers, hidden, heads: of the transformer; 0 where only the name is known.
        cached_width: numbers that each of keys and values has for a token and layer.
        vocabulary: tokens that it knows.
        known: by which of its sources.
    """

    parameters: float
    matrices: float
    layers: int
    hidden: int
    heads: int
    cached_width: int
    vocabulary: int
    known: str

    def forward_flops(self, tokens: float, length: float) -> float:
        """Operations of a forward pass over `tokens` tokens in texts of `length` (Kaplan et al., arXiv 2001.08361)."""
        return tokens * (2 * self.matrices + 4 * self.layers * self.hidden * length)

    def cache_bytes(self, tokens: float) -> float:
        """Bytes of the keys and values of so many tokens, in 16 bits."""
        return tokens * 2 * 2 * self.layers * self.cached_width


@cache
def model(name: str) -> Model | None:
    """Size of a model by its folder, packaged name or hub id; None where nothing tells it.

    Only what is on this machine is read: a plan needs no network and runs no model's code.
    """
    if model_file(name, "config.json") is not None:
        return _of_configuration(name)
    found = BILLIONS.findall(name.rsplit("/", 1)[-1])
    if not found:
        return None
    weights = float(found[-1]) * 1e9
    return Model(weights, weights, 0, 0, 0, 0, 0, "its name")


def _of_configuration(name: str) -> Model | None:
    import torch
    from transformers import AutoConfig, AutoModel

    path = model_file(name, "config.json")
    assert path is not None, "looked up by the caller"
    try:
        config: Any = AutoConfig.from_pretrained(path.parent, trust_remote_code=False)
        with torch.device("meta"):
            built = AutoModel.from_config(config, trust_remote_code=False)
    except (ValueError, OSError, KeyError, ImportError):  # an architecture that transformers does not know
        return None
    text = config.get_text_config()
    tables = sum(each.weight.numel() for each in built.modules() if isinstance(each, torch.nn.Embedding))
    parameters = sum(each.numel() for each in built.parameters())
    vocabulary = int(getattr(text, "vocab_size", 0))
    writes = any("CausalLM" in each for each in config.architectures or [])
    head = text.hidden_size * vocabulary if writes else 0
    matrices = parameters - tables + head
    parameters += 0 if getattr(text, "tie_word_embeddings", False) else head
    heads = int(text.num_attention_heads)
    width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    cached = width * int(getattr(text, "num_key_value_heads", None) or heads)
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    return Model(
        float(parameters), float(matrices), layers, hidden, heads, cached, vocabulary, "its configuration",
    )  # fmt: skip
