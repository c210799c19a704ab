"""How a student is computed on the device where it is: what is fastest there, of what gives the same embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill.attention import choose_attention
from distill.linears import choose_linears
from distill.packed import Layout, choose_layout
from distill.settings import TrainingSettings
from distill.tokens import TokenFile

if TYPE_CHECKING:
    from distill.step import Student


def choose_computation(student: Student, tokens: TokenFile, pad_id: int, training: TrainingSettings) -> Layout:
    """Chooses layout, attention and linear layers; every rank calls it, before DeepSpeed divides the parameters.

    Args:
        student: on its device, in its dtype; what is chosen is set there.
        tokens: of passages.
        pad_id: token id of padding.
        training: whether sequences shall be packed, and the ZeRO stage.

    Returns:
        The layout of micro-batches.

    Raises:
        ValueError: packed sequences are wanted, and this student cannot.
    """
    layout = choose_layout(student, tokens, pad_id, training.packed)
    if not layout.packed:
        choose_attention(student, tokens, layout)
    choose_linears(student, tokens, layout, training.zero_stage)
    return layout
