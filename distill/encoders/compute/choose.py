"""How an encoder is computed on the device where it is: what is fastest there, of what gives the same embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from distill.encoders.compute.cpu_attention import choose_attention
from distill.encoders.compute.cpu_linears import choose_linears
from distill.encoders.compute.packed_attention import choose_layout
from distill.encoders.compute.trial import sampled_rows
from distill.encoders.layout import Layout
from distill.encoders.tokens import TokenFile
from distill.settings import TrainingSettings

if TYPE_CHECKING:
    from distill.encoders.module import EncoderModule


def choose_for_training(student: EncoderModule, tokens: TokenFile, pad_id: int, training: TrainingSettings) -> Layout:
    """Chooses layout, attention and linear layers; every rank calls it, before DeepSpeed divides the parameters.

    Args:
        student: on its device, in its dtype; what is chosen is set there.
        tokens: of passages.
        pad_id: token id of padding.
        training: whether sequences shall be packed, and the ZeRO stage.

    Returns:
        The layout of micro-batches.

    Raises:
        PackedError: packed sequences are wanted, and this student cannot.
    """
    layout, rows = choose_layout(student, tokens, pad_id, training.packed), sampled_rows(tokens)
    if len(rows):
        features = layout.features(tokens, rows)
        if not layout.packed:
            choose_attention(student, features)
        choose_linears(student, features, training.zero_stage)
    return layout


def choose_for_reading(student: EncoderModule, features: dict[str, Any]) -> None:
    """Chooses attention and linear layers of an encoder that has no backward pass.

    In float32 torch's attention is as fast without one.

    Args:
        student: on its device, in its dtype; what is chosen is set there.
        features: of a few sequences, padded, for a trial.
    """
    if student.dtype == torch.bfloat16:
        choose_attention(student, features)
        choose_linears(student, features)
