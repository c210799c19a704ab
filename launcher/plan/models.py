"""Size of a model: from its configuration if this machine has it, otherwise from its name.

The shapes of the weights are in the header of the weights' file. Without that file the model is built from its
configuration on torch's "meta" device, where a tensor has a shape and no data.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from generation.engines.gguf import gguf_file
from launcher.plan.tokenizers import file_of_any_revision

TABLE = re.compile(r"(embeddings|embed_tokens|wte|wpe)\.weight$")  # embedding tables of tokens and positions
BILLIONS = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)b(?![a-z])", re.IGNORECASE)  # "Llama-3.1-8B-Instruct"


@dataclass(frozen=True)
class ModelSize:
    """Size of a model.

    Attributes:
        parameters: number of parameters; tied weights count once.
        matrices: number of the weights that every token is multiplied with: those of a language model's head, but not
            those of embedding tables.
        layers, hidden: shape of the transformer; 0 if only the name is known.
        cached_width: size of the keys, and of the values, of one token in one layer.
        saved: bytes of a token that all layers leave for a backward pass, under autocast to bfloat16.
        source: where these figures come from, in words.
    """

    parameters: float
    matrices: float
    layers: int
    hidden: int
    cached_width: int
    source: str
    saved: float = 0.0

    def forward_flops(self, tokens: float, length: float) -> float:
        """Operations of a forward pass over `tokens` tokens in texts of `length` tokens (arXiv 2001.08361)."""
        return tokens * (2 * self.matrices + 4 * self.layers * self.hidden * length)

    def cache_bytes(self, tokens: float, bytes_of_number: int = 2) -> float:
        """Bytes of the keys and values of `tokens` tokens."""
        return tokens * bytes_of_number * 2 * self.layers * self.cached_width


@cache
def model_size(name: str) -> ModelSize | None:
    """The size of a model, given its folder, packaged name or hub id; None if neither files nor name tell it.

    It reads only files of this machine: a plan needs no network, and runs no code of a model.
    """
    if (file := gguf_file(Path(name).expanduser())) is not None and find_spec("gguf"):
        return _size_of_gguf(file)
    if file_of_any_revision(name, "config.json") is not None:
        return _size_from_configuration(name)
    billions = BILLIONS.findall(name.rsplit("/", 1)[-1])
    if not billions:
        return None
    parameters = float(billions[-1]) * 1e9
    return ModelSize(parameters, parameters, 0, 0, 0, "its name")


def _size_from_configuration(name: str) -> ModelSize | None:
    path = file_of_any_revision(name, "config.json")
    assert path is not None, "the caller has checked it"
    config = json.loads(path.read_text(encoding="utf-8"))
    config |= config.get("text_config", {})
    weights = path.with_name("model.safetensors")
    shapes = _shapes_of_file(weights) if weights.is_file() else _shapes_of_configuration(path)
    if shapes is None or not {"hidden_size", "num_hidden_layers", "num_attention_heads"} <= config.keys():
        return None
    sizes = {key: math.prod(shape) for key, shape in shapes.items()}
    tables = sum(size for key, size in sizes.items() if TABLE.search(key))
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    has_head = any("CausalLM" in name for name in config.get("architectures") or [])
    head = hidden * int(config.get("vocab_size", 0)) if has_head else 0
    head_is_stored = any(key.endswith("lm_head.weight") for key in sizes)
    parameters = sum(sizes.values()) + (0 if head_is_stored or config.get("tie_word_embeddings", False) else head)
    matrices = sum(sizes.values()) - tables + (0 if head_is_stored else head)
    width = int(config.get("head_dim") or hidden // heads)
    cached = width * int(config.get("num_key_value_heads") or heads)
    return ModelSize(
        float(parameters), float(matrices), int(config["num_hidden_layers"]), hidden, cached, "its configuration",
        _saved_bytes(config, shapes, hidden, heads * width, cached),
    )  # fmt: skip


def _saved_bytes(config: dict[str, Any], shapes: dict[str, list[int]], hidden: int, queries: int, keys: int) -> float:
    """Bytes of a token that all layers leave for a backward pass; what autograd holds was measured for three kinds.

    Residuals and the inputs of norms stay in float32, so it is more than the 34 bytes for each dimension of
    arXiv 2205.05198, which are for 16 bits alone. A gated feed-forward network has two matrices from the hidden size, a
    decoder with rotary positions and norms of its own holds queries and keys several times.
    """
    inner = int(config.get("intermediate_size") or 4 * hidden)
    gated = any(re.search(r"(gate_proj|gate_up_proj|up_gate_proj|mlp\.Wi|wi_1)\.weight$", key) for key in shapes)
    separate = any(key.endswith("k_proj.weight") for key in shapes)
    of_layer = 27.0 * hidden + (8.2 if gated else 4.2) * inner + (10.3 * (queries + keys) if separate else 0.0)
    return of_layer * int(config["num_hidden_layers"])


def _size_of_gguf(file: Path) -> ModelSize | None:
    from gguf import GGUFReader

    reader = GGUFReader(file)
    architecture = reader.get_field("general.architecture")

    def number(key: str) -> int:
        field = reader.get_field(f"{architecture.contents()}.{key}") if architecture else None
        return int(field.contents()) if field and not isinstance(field.contents(), list) else 0

    sizes = {tensor.name: math.prod(int(width) for width in tensor.shape) for tensor in reader.tensors}
    layers, hidden, heads = number("block_count"), number("embedding_length"), number("attention.head_count")
    if not (layers and hidden and heads):
        return None
    parameters = sum(sizes.values())
    # a head that is not stored is the embedding table once more, and is multiplied with
    matrices = parameters - (sizes.get("token_embd.weight", 0) if "output.weight" in sizes else 0)
    width = number("attention.key_length") or hidden // heads
    cached = width * (number("attention.head_count_kv") or heads)
    return ModelSize(float(parameters), float(matrices), layers, hidden, cached, "its GGUF file")


def _shapes_of_file(weights: Path) -> dict[str, list[int]]:
    """Shapes of the tensors in a safetensors file, from its header."""
    from safetensors import safe_open

    with safe_open(weights, "numpy") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118, file is no dict


def _shapes_of_configuration(config: Path) -> dict[str, list[int]] | None:
    """Shapes of the parameters that a configuration describes; for weights that are not here, or in several files."""
    import torch
    from transformers import AutoConfig, AutoModel

    try:
        with torch.device("meta"):
            model = AutoModel.from_config(AutoConfig.from_pretrained(config.parent, trust_remote_code=False))
    except (ValueError, OSError, KeyError, ImportError):  # an architecture that transformers does not know
        return None
    return {key: list(parameter.shape) for key, parameter in model.named_parameters()}
