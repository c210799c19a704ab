"""How an encoder is computed on its device: the fastest way that gives the same embeddings as the model's own.

This is the one door to the kernels of this folder. Each choice is a trial on a few sequences. A model that a kernel
does not fit (soft caps, position biases, outputs that are written in place) is found by comparing and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from distill.collectives import all_ranks
from distill.encoders.compute import cpu_attention, packed_attention
from distill.encoders.compute.cpu_linears import JoinedLayers, SharedInputs
from distill.encoders.compute.trial import difference, sampled_rows
from distill.encoders.device import has_bfloat16_linear
from distill.encoders.layout import Layout, PackedError
from distill.encoders.module import Computed, EncoderModule
from distill.encoders.tokens import TokenFile
from distill.settings.training import TrainingSettings

Agree = Callable[[bool], bool]


def choose_for_training(module: EncoderModule, tokens: TokenFile, pad_id: int, training: TrainingSettings) -> Layout:
    """Chooses layout, attention and linear layers; every rank calls it, before DeepSpeed divides the parameters.

    Args:
        module: on its device, in its dtype; what is chosen is set there.
        tokens: of passages.
        pad_id: token id of padding.
        training: whether sequences shall be packed, the ZeRO stage, and parts that are switched off.

    Returns:
        The layout of micro-batches.

    Raises:
        PackedError: packed sequences are wanted, and this encoder cannot read them.
    """
    if module.device == "cpu" and module.attention:
        module.attention = "eager"  # torch's fused attention has a slow backward on CPUs
    layout, rows = choose_layout(module, tokens, pad_id, training.packed), sampled_rows(tokens)
    if len(rows):
        features = layout.features(tokens, rows)
        if not layout.packed and "attention" not in training.without:
            choose_attention(module, features)
        if "layers" not in training.without:
            choose_layers(module, features, training.zero_stage)
    return layout


def choose_for_reading(module: EncoderModule, features: dict[str, Any]) -> None:
    """Chooses attention and linear layers of an encoder that has no backward pass.

    In float32, torch's own attention is as fast without one. This process decides alone: one rank of a training may
    encode while the others do not.

    Args:
        module: on its device, in its dtype; what is chosen is set there.
        features: of a few sequences, padded, for a trial.
    """
    if module.dtype == torch.bfloat16:
        choose_attention(module, features, alone)
        choose_layers(module, features, agree=alone)


def choose_layout(module: EncoderModule, tokens: TokenFile, pad_id: int, wanted: bool | None) -> Layout:
    """Packed, if that is wanted and gives the same embeddings as padding; else padded. All ranks choose alike.

    Sequences that are compared: the longest, the shortest and two between. Positions are tried from 0, and from the
    number after the padding token's, as RoBERTa counts.

    Args:
        module: on its device, in its dtype; its attention is set.
        tokens: of passages.
        pad_id: token id of padding.
        wanted: by the recipe; None: on GPUs that have flash attention, in bfloat16.

    Raises:
        PackedError: it is wanted, and this encoder cannot.
    """
    padded, rows = Layout(pad_id), sampled_rows(tokens)
    if wanted is False or (wanted is None and not all_ranks(packed_attention.has_kernel(module))) or not len(rows):
        return padded
    with torch.no_grad():
        expected = module(**padded.features(tokens, rows))
    own, reason = module.attention, ""
    for first in (0, pad_id + 1):
        layout, module.attention = Layout(pad_id, first), packed_attention.NAME
        problem = _packed_difference(module, layout.features(tokens, rows), first, expected)
        if all_ranks(not problem):
            return layout
        module.attention, reason = own, reason or problem
    if wanted:
        raise PackedError(reason or "another rank cannot pack")
    return padded


def choose_attention(module: EncoderModule, features: dict[str, Any], agree: Agree = all_ranks) -> None:
    """Sets the plain products of `cpu_attention`, if the encoder is on a CPU.

    Embeddings are compared in float32, where nothing but another formula makes a difference.

    Args:
        module: on its device, in its dtype; its attention is set.
        features: of a few sequences, padded, for a trial.
        agree: whether something holds on every process that has to choose alike.
    """
    if not agree(module.device == "cpu"):
        return
    own, dtype = module.attention, module.dtype
    module.dtype = torch.float32
    with torch.no_grad():
        expected = module(**features)
    module.attention = cpu_attention.NAME
    if not agree(difference(module, features, expected) == ""):
        module.attention = own
    module.dtype = dtype


def choose_layers(module: Computed, features: dict[str, Any], zero_stage: int = 0, agree: Agree = all_ranks) -> None:
    """Joins linear layers that have one input, if the encoder is on a CPU in bfloat16.

    Under ZeRO 3 a layer has its weights only while it is called, so that none can be joined.

    Args:
        module: on its device, in its dtype; its context for layers is set.
        features: of a few sequences, for a trial.
        zero_stage: of the training.
        agree: whether something holds on every process that has to choose alike.
    """
    fits = module.device == "cpu" and module.dtype == torch.bfloat16 and has_bfloat16_linear() and zero_stage < 3
    if not agree(fits):
        return
    own = module.layers
    with torch.no_grad(), SharedInputs() as inputs:
        expected = module(**features)
    module.layers = JoinedLayers(inputs.groups())
    if not agree(difference(module, features, expected) == ""):
        module.layers = own


def alone(holds: bool) -> bool:
    """The agreement of a process that decides for itself."""
    return holds


def _packed_difference(module: EncoderModule, features: dict[str, Any], first: int, expected: torch.Tensor) -> str:
    """Why these packed sequences are not encoded as the padded ones were; empty if they are."""
    transformer = module.model.transformers_model
    positions = getattr(getattr(transformer, "config", None), "max_position_embeddings", None) or 1 << 30
    if first + features["max_length_q"] > positions:
        return f"{positions} positions are too few"
    reason = difference(module, features, expected)
    return f"packed sequences give {reason}" if reason.startswith("other embeddings") else reason
