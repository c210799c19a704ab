"""How large a model is: from its configuration where this machine has it, else from its name.

The header of a file of weights tells every shape. Without one the configuration does: the model is built on torch's
"meta" device, where tensors are nothing but shapes.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from launcher.plan.corpus import model_file

TABLE = re.compile(r"(embeddings|embed_tokens|wte|wpe)\.weight$")  # what is looked up by token or position
BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)  # "Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class Model:
    """Size of a model.

    Attributes:
        parameters: all of them, each once.
        matrices: weights that every token goes through: no embedding tables, but the head that writes tokens.
        layers, hidden: of the transformer; 0 where only the name is known.
        cached_width: numbers that each of keys and values has for a token and layer.
        known: by which of its sources.
    """

    parameters: float
    matrices: float
    layers: int
    hidden: int
    cached_width: int
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
    return Model(weights, weights, 0, 0, 0, "its name")


def _of_configuration(name: str) -> Model | None:
    path = model_file(name, "config.json")
    assert path is not None, "looked up by the caller"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= config.get("text_config", {})
    weights = path.with_name("model.safetensors")
    shapes = _stored(weights) if weights.is_file() else _built(path)
    if shapes is None or not {"hidden_size", "num_hidden_layers", "num_attention_heads"} <= config.keys():
        return None
    sizes = {key: math.prod(shape) for key, shape in shapes.items()}
    tables = sum(size for key, size in sizes.items() if TABLE.search(key))
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    writes = any("CausalLM" in each for each in config.get("architectures") or [])
    head = hidden * int(config.get("vocab_size", 0)) if writes else 0
    own = any(key.endswith("lm_head.weight") for key in sizes)
    parameters = sum(sizes.values()) + (0 if own or config.get("tie_word_embeddings", False) else head)
    matrices = sum(sizes.values()) - tables + (0 if own else head)
    width = int(config.get("head_dim") or hidden // heads)
    cached = width * int(config.get("num_key_value_heads") or heads)
    return Model(
        float(parameters), float(matrices), int(config["num_hidden_layers"]), hidden, cached, "its configuration",
    )  # fmt: skip


def _stored(weights: Path) -> dict[str, list[int]]:
    """Shapes of the tensors of a file, from its header."""
    from safetensors import safe_open

    with safe_open(weights, "numpy") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118, it is no dict


def _built(config: Path) -> dict[str, list[int]] | None:
    """Shapes that a configuration asks for, where the weights are elsewhere or in many files."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        with torch.device("meta"):
            built = AutoModel.from_config(AutoConfig.from_pretrained(config.parent, trust_remote_code=False))
    except (ValueError, OSError, KeyError, ImportError):  # an architecture that transformers does not know
        return None
    return {key: list(each.shape) for key, each in built.named_parameters()}
