"""The output layer of a language model, for a score: at few positions, for few tokens, and in float32.

A model of many tokens spends much of its time and memory on logits that nobody reads. In bfloat16 many of them are
equal, so that a teacher could not tell passages apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from cluster.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class ScoringHead(torch.nn.Module):
    """Output layer that computes logits at chosen positions alone.

    Args:
        layer: the model's own output layer, `(vocabulary, H)`.
        tokens: (V,) rows of it that are kept; None keeps all.

    `rows` and `columns`, `(N,)` each, say at which positions of the next batch; the caller sets them before each pass.
    """

    def __init__(self, layer: Any, tokens: list[int] | None = None) -> None:
        super().__init__()
        kept = slice(None) if tokens is None else torch.tensor(tokens, device=layer.weight.device)
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.register_buffer("weight", layer.weight.detach()[kept].float(), persistent=False)
        bias = getattr(layer, "bias", None)
        self.register_buffer("bias", None if bias is None else bias.detach()[kept].float(), persistent=False)
        self.rows: torch.Tensor | None = None
        self.columns: torch.Tensor | None = None

    def forward(self, hidden_BTH: torch.Tensor) -> torch.Tensor:
        """(1, N, V) float32 logits of N positions."""
        assert self.rows is not None and self.columns is not None, "set before each pass"
        hidden_NH = hidden_BTH[self.rows, self.columns].float()
        return torch.nn.functional.linear(hidden_NH, self.weight, self.bias)[None]


def put_head(model: PreTrainedModel, tokens: list[int] | None = None) -> ScoringHead:
    """Puts a `ScoringHead` in the place of the model's output layer. What the model does after it, it still does."""
    head = ScoringHead(model.get_output_embeddings(), tokens)
    model.set_output_embeddings(head)
    return head


def token_id(tokenizer: Any, token: str, field: str) -> int:
    """Id of a token that a person named: an entry of the vocabulary, else a text that is one token.

    Raises:
        InputError: it is none.
    """
    vocabulary = tokenizer.get_vocab()
    if token in vocabulary:
        return int(vocabulary[token])
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        pieces = " ".join(repr(str(piece)) for piece in tokenizer.convert_ids_to_tokens(ids))
        raise InputError(
            f"{field} is {token!r}, which is no token of '{tokenizer.name_or_path}': it reads {pieces or 'nothing'}. "
            "Name one token, as its vocabulary writes it."
        )
    return int(ids[0])
