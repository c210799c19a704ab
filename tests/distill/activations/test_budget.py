"""What graphs hold is counted as a formula by hand counts it."""

from __future__ import annotations

import math

import pytest
import torch

from cluster.machines.memory import Memory
from distill.activations.activations import Activations
from distill.activations.budget import MIB, activation_bytes
from distill.activations.costs import Costs, GraphBytes, Keep
from distill.activations.reuse import Output

B, D, H = 5, 8, 24


def test_bytes_of_a_perceptron_are_those_of_its_formula() -> None:
    """Backward of a linear layer needs its input, that of GELU needs its input too: B·D and B·H twice, float32."""
    module = torch.nn.Sequential(torch.nn.Linear(D, H), torch.nn.GELU(), torch.nn.Linear(H, D))
    held = GraphBytes(module)
    for times in (1, 2):
        with held.counting():
            output = module(torch.randn(B, D))
        assert output.requires_grad
        assert held.bytes == times * 4 * (B * D + 2 * B * H)


def test_views_of_one_storage_count_once_and_weights_do_not() -> None:
    module = torch.nn.Linear(D, D, bias=False)
    held, given = GraphBytes(module), torch.randn(B, D, requires_grad=True)
    with held.counting():
        product = (given.view(B, D) * given) @ module.weight.T
    assert product.requires_grad
    assert held.bytes == 4 * (B * D + B * D)  # `given` once, and its square


@pytest.mark.parametrize(("wanted", "ranks", "expected"), [(0, 1, 0), (3, 2, 3 * MIB), (None, 1, 40), (None, 2, 20)])
def test_budget_is_the_recipes_or_the_ranks_part_of_a_third_of_what_is_available(
    wanted: int | None, ranks: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = torch.nn.Linear(D, D)
    weights = 16 * (D * D + D)
    available = expected if wanted is not None else 3 * (expected + weights) * ranks
    monkeypatch.setattr("distill.activations.budget.machine_memory", lambda: Memory(10 * available, available))
    assert activation_bytes(wanted, module, "cpu", ranks) == expected


def test_memory_goes_to_the_dearest_outputs_of_all_then_to_graphs_of_the_last_and_is_never_overdrawn() -> None:
    """Ten tokens were measured: a graph of 900 bytes; attention, a long sum and a short one, of 100 bytes each."""
    outputs = [Output(100, 4.0, True), Output(100, math.inf, True), Output(100, 16.0, True), Output(50, 32.0, False)]
    costs, computed = Costs(10, 900, outputs), [40, 30, 20, 10]
    found = {most: costs.keep(computed, most) for most in range(0, 10_000, 50)}
    assert found[0] == found[950] == Keep(4)
    assert found[1000] == Keep(4, frozenset({1}), 0, 1000, 100 / 350)
    assert found[2000].numbers == {1, 2}
    assert found[3000] == Keep(4, frozenset({0, 1, 2}), 0, 3000, 300 / 350)
    assert [found[most].graphs_from for most in (3550, 3600, 4800, 6600, 8950)] == [4, 3, 2, 1, 1]
    assert costs.keep(computed, 9000) == Keep(0, graph_bytes=9000)
    for most, keep in found.items():
        graphs = 90 * sum(computed[keep.graphs_from :])
        kept = sum(outputs[number].bytes for number in keep.numbers) * sum(computed[: keep.graphs_from]) / 10
        assert (keep.graph_bytes, keep.output_bytes) == (graphs, kept)
        assert graphs + kept <= most

    divided = Costs(10, None, outputs)  # as under ZeRO 3
    assert divided.keep(computed, 1 << 40) == Keep(4, frozenset({0, 1, 2}), 0, 3000, 300 / 350)


@pytest.mark.parametrize(("room", "expected"), [(None, 1000), (10_000, 1000), (1600, 560), (1000, 0)])
def test_what_is_kept_leaves_room_for_a_pass_that_is_pushed_back(room: int | None, expected: int) -> None:
    """A pass of 800 bytes takes 1.3 times as much while its gradients are computed."""

    class Noting:
        graph = 800

        def keep(self, computed: list[int], most: int) -> Keep:
            asked.append(most)
            return Keep(0)

    asked: list[int] = []
    activations = Activations(lambda **_: torch.ones(1), torch.nn.Linear(2, 2), 1000, room_bytes=room)
    activations._measured = lambda work: Noting()
    activations.plan([])
    assert asked == [expected]
