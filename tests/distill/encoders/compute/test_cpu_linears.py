"""Linear layers that oneDNN computes in bfloat16, several with one input at once."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from distill.encoders.compute.choose import choose_layers
from distill.encoders.compute.cpu_linears import JoinedLayers
from distill.encoders.compute.trial import sampled_rows
from distill.encoders.device import has_bfloat16_linear
from distill.encoders.layout import Layout
from tests.distill.activations.test_reuse import Kernels
from tests.distill.encoders.compute.test_cpu_attention import embed_and_push_back

NEEDED = pytest.mark.skipif(not has_bfloat16_linear(), reason="this processor has no bfloat16 in oneDNN")


def in_float64(x, layers):
    return [x.double() @ weight.double().T + (0 if bias is None else bias.double()) for weight, bias in layers]


def under_autocast(x, layers, linears=None):
    with torch.autocast("cpu", torch.bfloat16), linears or torch.enable_grad():
        return [linear(x, weight, bias) for weight, bias in layers]


def leaves(x, layers):
    return [x, *(each for layer in layers for each in layer if each is not None and each.requires_grad)]


def made_layers(bias, outputs=(24, 24, 8)):
    torch.manual_seed(0)
    return [
        (torch.nn.Parameter(torch.randn(size, 40) / 6), torch.nn.Parameter(torch.randn(size)) if bias else None)
        for size in outputs
    ]


@NEEDED
@pytest.mark.parametrize("bias", [True, False])
def test_they_are_no_further_from_float64_than_autocast(bias):
    """Outputs, and the gradients of input, weights and biases."""
    layers = made_layers(bias)
    x = torch.randn(5, 31, 40, requires_grad=True)
    weights = [torch.randn(5, 31, len(weight)) for weight, _ in layers]

    def errors(outputs, expected=None):
        loss = sum((output * weight).sum() for output, weight in zip(outputs, weights, strict=True))
        found = [each.detach() for each in (*outputs, *torch.autograd.grad(loss, leaves(x, layers)))]
        return found if expected is None else [
            float((one.double() - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True)
        ]  # fmt: skip

    expected = errors(in_float64(x, layers))
    linears = JoinedLayers([layers])
    with Kernels() as made:
        outputs = under_autocast(x, layers, linears)
    assert made.counts["_linear_pointwise"] == 1 and made.counts["addmm"] + made.counts["mm"] == 0
    ours, autocast = errors(outputs, expected), errors(under_autocast(x, layers), expected)
    for one, other in zip(ours, autocast, strict=True):
        assert 0 < one < 1.05 * other


@NEEDED
def test_frozen_layers_get_no_gradient():
    layers = made_layers(bias=True)
    for weight, bias in layers:
        weight.requires_grad_(False), bias.requires_grad_(False)
    x = torch.randn(7, 40, requires_grad=True)
    outputs = under_autocast(x, layers, JoinedLayers([layers]))
    sum(output.float().square().sum() for output in outputs).backward()
    assert x.grad.abs().sum() > 0 and all(each.grad is None for layer in layers for each in layer)


@NEEDED
@pytest.mark.parametrize("change", ["written over", "another", "the last is not asked"])
def test_what_was_made_of_one_input_is_given_for_no_other(change):
    (first, second, third), x = made_layers(bias=True), torch.randn(7, 40)
    linears = JoinedLayers([[first, second, third]])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), linears:
        linear(x, *first)
        if change == "written over":
            x.mul_(2)
        elif change == "another":
            x = x * 2
        found = linear(x, *second)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(found, linear(x, *second), rtol=0.02, atol=0.02)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), linears, Kernels() as made:
        linear(x, *third)
    assert made.counts["_linear_pointwise"] == 1, "nothing outlives a pass"


@NEEDED
def test_layers_of_one_input_are_found_and_the_student_stays_what_it_is(student, request):
    """Queries, keys and values; in decoders gate and up too. ModernBERT has one layer for all three."""
    student, tokens, pad_id = student
    layout, name = Layout(pad_id), request.node.callspec.id
    features, found = layout.features(tokens, np.arange(len(tokens))), {}
    found["expected"] = embed_and_push_back(student, features)
    student.dtype = torch.bfloat16
    found["autocast"] = embed_and_push_back(student, features)
    choose_layers(student, layout.features(tokens, sampled_rows(tokens)), zero_stage=2)
    found["joined"] = embed_and_push_back(student, features)
    sizes = sorted(len(layers) for layers in student.layers.groups.values())
    depth = student.model.transformers_model.config.num_hidden_layers
    assert sizes == {"modernbert": [], "qwen3": [2] * depth + [3] * depth}.get(name, [3] * depth)
    for what in (0, 1):
        expected = found["expected"][what]
        ours, autocast = (
            float((found[each][what] - expected).norm() / expected.norm()) for each in ("joined", "autocast")
        )
        assert 0 < ours < 1.2 * autocast


@pytest.mark.parametrize("reason", ["float32", "ZeRO 3", "a processor without"])
def test_they_are_left_as_they_are(student, reason, monkeypatch):
    student, tokens, pad_id = student
    student.dtype = torch.float32 if reason == "float32" else torch.bfloat16
    if reason == "a processor without":
        monkeypatch.setattr("distill.encoders.compute.choose.has_bfloat16_linear", lambda: False)
    choose_layers(
        student, Layout(pad_id).features(tokens, sampled_rows(tokens)), zero_stage=3 if reason == "ZeRO 3" else 0
    )
    assert isinstance(student.layers, contextlib.nullcontext)


@NEEDED
def test_a_model_that_writes_into_one_of_the_joined_outputs_keeps_its_own_layers(tmp_path, tiny_encoder):
    """Outputs of joined layers are views of one tensor, which autograd lets nobody write into."""
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.encoders.reading import Reading
    from distill.encoders.tokens import TokenFile, write_tokens
    from distill.settings.encoders import StudentSettings
    from tests.distill.training.test_step import problem

    model = load_model(StudentSettings(model=tiny_encoder), "cpu")
    attention = model.transformers_model.encoder.layer[0].attention.self
    attention.query.register_forward_hook(lambda layer, inputs, output: output.mul_(0.5))
    write_tokens(tmp_path / "passages", problem()[1], Reading(model, "document", 48).token_ids)
    module, tokens = EncoderModule(model, "cpu", torch.bfloat16), TokenFile(tmp_path / "passages")
    features = Layout(model.tokenizer.pad_token_id).features(tokens, sampled_rows(tokens))
    expected = embed_and_push_back(module, features)
    choose_layers(module, features)
    assert isinstance(module.layers, contextlib.nullcontext)
    for found, own in zip(embed_and_push_back(module, features), expected, strict=True):
        assert torch.equal(found, own)
