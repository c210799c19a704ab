"""A second run reuses what the first run kept, computes none of it again, and has the same graph."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from distill.activations.costs import most_expensive
from distill.activations.reuse import FirstRun, Output, SecondRun, TrialRun, reusable


class Kernels(TorchDispatchMode):
    """Counts the kernels that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[function._opname] += 1
        return function(*args, **(kwargs or {}))


def push_back(module, features, run):
    """Embeddings, gradients of a weighted sum of them, and the kernels that their forward pass ran."""
    module.zero_grad()
    with Kernels() as kernels, run:
        embeddings = module(**features)
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).reshape(embeddings.shape)).sum().backward()
    gradients = [weight.grad.flatten() for weight in module.parameters() if weight.grad is not None]
    return embeddings.detach(), torch.cat(gradients), kernels.counts


def run_twice(module, features, numbers):
    """What `push_back` gives of the second run, whose first run kept the outputs of these operations."""
    first = FirstRun(numbers)
    with torch.no_grad(), first:
        module(**features)
    return push_back(module, features, SecondRun(first.kept))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_embeddings_and_gradients_are_those_of_one_run_to_the_bit(student, dtype):
    from distill.encoders.compute.choose import choose_attention, choose_layers
    from distill.encoders.compute.trial import sampled_rows
    from distill.encoders.device import has_bfloat16_linear
    from distill.encoders.layout import Layout

    module, tokens, pad_id = student
    module.dtype = dtype
    layout = Layout(pad_id)
    for choose in (choose_attention, choose_layers):
        choose(module, layout.features(tokens, sampled_rows(tokens)))
    joined = dtype == torch.bfloat16 and has_bfloat16_linear()
    features = layout.features(tokens, np.argsort(-tokens.lengths)[:7])
    trial = TrialRun()
    embeddings, gradients, kernels = push_back(module, features, trial)
    outputs = trial.outputs()
    depth = module.model.transformers_model.config.num_hidden_layers
    assert len(outputs) >= (4 * depth if joined else depth)
    everything = most_expensive(outputs, 1 << 40)
    assert len(everything) == len(outputs)
    half = most_expensive(outputs, sum(output.bytes for output in outputs) / 2)
    for numbers in (frozenset(), half, everything):
        found = run_twice(module, features, numbers)
        assert torch.equal(found[0], embeddings) and torch.equal(found[1], gradients)
        linear_layers = sum(outputs[number].summed < float("inf") for number in numbers)
        assert found[2]["_linear_pointwise"] == kernels["_linear_pointwise"] - linear_layers
    assert found[2]["bmm"] == found[2]["_softmax"] == 0 < kernels["bmm"], "attention waits for the backward"


def test_outputs_of_a_bert_have_the_sizes_of_its_formula(tiny_encoder):
    """In float32, attention alone is reusable: one output of the hidden size a layer."""
    from distill.encoders.compute.cpu_attention import NAME
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.settings.encoders import StudentSettings

    model = load_model(StudentSettings(model=tiny_encoder), "cpu")
    config = model.transformers_model.config
    sequences, length = 3, 10
    module, trial = EncoderModule(model, "cpu", torch.float32), TrialRun()
    module.attention = NAME
    ids = torch.randint(10, 40, (sequences, length))
    with trial:
        module(input_ids=ids, attention_mask=torch.ones_like(ids))
    size = 4 * sequences * length * config.hidden_size
    assert trial.outputs() == [Output(size, float("inf"), True)] * config.num_hidden_layers


def test_the_longest_sums_are_kept_first_and_memory_is_never_overdrawn():
    outputs = [Output(10, 4.0, True), Output(10, float("inf"), True), Output(10, 16.0, True), Output(5, 32.0, False)]
    found = [most_expensive(outputs, most) for most in (9, 10, 19, 20, 30)]
    assert found == [frozenset(), {1}, {1}, {1, 2}, {0, 1, 2}], "what the model wrote over is never kept"


class Overwrites(torch.nn.Module):
    """Writes over the output of its first operation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = reusable(lambda: x * 3, 1.0)
        return reusable(lambda: first.mul_(2).tanh(), 1.0)


def test_an_output_that_a_model_writes_over_is_known():
    trial = TrialRun()
    with trial:
        Overwrites()(torch.randn(5, 6))
    assert [output.unchanged for output in trial.outputs()] == [False, True]


def test_an_operation_outside_of_a_run_is_computed():
    assert reusable(lambda: torch.ones(2)).sum() == 2


def test_a_second_run_reuses_each_output_once():
    first, calls = FirstRun({0}), Counter()

    def operation():
        calls["made"] += 1
        return torch.ones(1)

    with first:
        reusable(operation), reusable(operation)
    for expected in (3, 5):  # the second of two; then both, since nothing is kept any more
        with SecondRun(first.kept):
            reusable(operation), reusable(operation)
        assert calls["made"] == expected
