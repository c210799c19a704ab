"""What graphs hold is counted as a formula by hand counts it."""

from __future__ import annotations

import pytest
import torch

from distill.memory import MIB, Held, activation_bytes

B, D, H = 5, 8, 24


def test_bytes_of_a_perceptron_are_those_of_its_formula() -> None:
    """Backward of a linear layer needs its input, that of GELU needs its input too: B·D and B·H twice, float32."""
    module = torch.nn.Sequential(torch.nn.Linear(D, H), torch.nn.GELU(), torch.nn.Linear(H, D))
    held = Held(module)
    for times in (1, 2):
        with held.counting():
            output = module(torch.randn(B, D))
        assert output.requires_grad
        assert held.bytes == times * 4 * (B * D + 2 * B * H)


def test_views_of_one_storage_count_once_and_weights_do_not() -> None:
    module = torch.nn.Linear(D, D, bias=False)
    held, given = Held(module), torch.randn(B, D, requires_grad=True)
    with held.counting():
        product = (given.view(B, D) * given) @ module.weight.T
    assert product.requires_grad
    assert held.bytes == 4 * (B * D + B * D)  # `given` once, and its square


@pytest.mark.parametrize(("wanted", "expected"), [(0, 0), (3, 3 * MIB), (None, 2048 * MIB)])
def test_budget_is_the_recipes_or_that_of_a_cpu(wanted: int | None, expected: int) -> None:
    assert activation_bytes(wanted, torch.nn.Linear(D, D), "cpu") == expected
