"""A second run takes what the first one kept, makes no product of it again, and has the same graph."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.nn.functional import linear
from torch.utils._python_dispatch import TorchDispatchMode

from distill.activations.recompute import Keeping, Listing, Output, dear_call, dearest

LINEAR = ("addmm", "mm", "_linear_pointwise")


class Made(TorchDispatchMode):
    """Counts the kernels that run."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.kernels[function._opname] += 1
        return function(*args, **(kwargs or {}))


def push_back(student, features, calls=None):
    """Embeddings, gradients of a weighted sum of them, and the kernels that their forward pass ran."""
    student.zero_grad()
    with Made() as made:
        embeddings = student(calls=calls, **features)
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).reshape(embeddings.shape)).sum().backward()
    gradients = [each.grad.flatten() for each in student.parameters() if each.grad is not None]
    return embeddings.detach(), torch.cat(gradients), made.kernels


def twice(student, features, numbers):
    """Of the second run, whose first one kept the outputs of the calls with these numbers."""
    calls = Keeping(numbers)
    with torch.no_grad():
        student(calls=calls, **features)
    return push_back(student, features, calls.recalling())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["products", "its own", "packed"])
def test_embeddings_and_gradients_are_those_of_one_run_to_the_bit(student, dtype, attention):
    from distill.encoders.compute.cpu_attention import choose_attention
    from distill.encoders.compute.cpu_linears import choose_linears
    from distill.encoders.compute.packed_attention import choose_layout
    from distill.encoders.compute.trial import sampled_rows
    from distill.encoders.device import in_bfloat16
    from distill.encoders.layout import Layout

    student, tokens, pad_id = student
    student.dtype = dtype
    layout = choose_layout(student, tokens, pad_id, wanted=True) if attention == "packed" else Layout(pad_id)
    trial = layout.features(tokens, sampled_rows(tokens))
    if attention == "products":
        choose_attention(student, trial)
        assert student.products
    if attention != "its own":
        choose_linears(student, trial)
        assert bool(student.linears) == (dtype == torch.bfloat16 and in_bfloat16())
    features = layout.features(tokens, np.argsort(-tokens.lengths)[:7])
    listing = Listing()
    student(calls=listing, **features)
    outputs = listing.outputs()
    embeddings, gradients, kernels = push_back(student, features)
    everything = dearest(outputs, 1 << 40)
    assert len(everything) == len(outputs) >= 10
    half = dearest(outputs, sum(each.bytes for each in outputs) / 2)
    for numbers in ([], half, everything):
        found = twice(student, features, numbers)
        assert torch.equal(found[0], embeddings) and torch.equal(found[1], gradients)
        linear_layers = sum(outputs[number].summed < float("inf") for number in numbers)
        assert sum(found[2][each] for each in LINEAR) == sum(kernels[each] for each in LINEAR) - linear_layers
    if attention == "products":
        assert found[2]["bmm"] == found[2]["_softmax"] == 0 < kernels["bmm"], "attention waits for the backward"


def test_outputs_of_a_bert_have_the_sizes_of_its_formula(tiny_encoder):
    """Three products, attention, three products a layer, and the pooler; float32."""
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.settings import StudentSettings

    model = load_model(StudentSettings(model=tiny_encoder), "cpu")
    config = model.transformers_model.config
    sequences, length, hidden, inner = 3, 10, config.hidden_size, config.intermediate_size
    student, listing = EncoderModule(model, "cpu", torch.float32), Listing()
    student.products = True
    ids = torch.randint(10, 40, (sequences, length))
    student(calls=listing, input_ids=ids, attention_mask=torch.ones_like(ids))
    token, most = 4 * sequences * length, float("inf")
    kinds = [(hidden, hidden)] * 3 + [(hidden, most)] + [(hidden, hidden), (inner, hidden), (hidden, inner)]
    expected = [Output(token * width, summed, True) for width, summed in kinds * config.num_hidden_layers]
    found = listing.outputs()
    assert found[: len(expected)] == expected
    assert found[len(expected) :] in ([], [Output(4 * sequences * hidden, hidden, True)])

    attention = [number for number, each in enumerate(found) if each.summed == most]
    down = [number for number, each in enumerate(found) if each.summed == inner]
    assert dearest(found, len(attention) * token * hidden) == set(attention)
    assert dearest(found, (len(attention) + len(down)) * token * hidden) == {*attention, *down}
    assert dearest(found, token * hidden - 1) == set()


class Overwrites(torch.nn.Module):
    """Writes over what its first layer gave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)

    def forward(self, x: torch.Tensor, calls) -> torch.Tensor:
        with calls:
            return self.second(self.first(x).mul_(2).tanh())


def test_what_a_model_writes_over_is_not_kept():
    module, x, listing = Overwrites(), torch.randn(5, 6), Listing()
    module(x, listing)
    assert [each.lasts for each in listing.outputs()] == [False, True]
    assert dearest(listing.outputs(), 1 << 30) == {1}


def test_a_call_of_several_kernels_is_made_again():
    weight, x = torch.randn(4, 4, requires_grad=True), torch.randn(3, 4)

    def two() -> torch.Tensor:
        return linear(linear(x, weight), weight)

    def call(calls) -> torch.Tensor:
        with calls:
            return dear_call(two, kernel=True)

    def and_gradient(output: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return output, *torch.autograd.grad(output.square().sum(), weight)

    keeping = Keeping({0})
    call(keeping)
    for found, expected in zip(and_gradient(call(keeping.recalling())), and_gradient(two()), strict=True):
        assert torch.equal(found, expected)
