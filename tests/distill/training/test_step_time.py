"""The model of a step's time: its parts add up, and behave at the ends as they must."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from distill.training.step_time import Machine, Work, efficiency, ring, step_time, token_flops, unique_passages

MACHINE = Machine(4e14, 4e13, 3e12, 8, 4e11, 5e10, 1e-5)
WORK = Work(4096, 50_000, 16, 180, 85e6, 109e6, 12, 768, 768)


def test_one_rank_sends_nothing_and_many_ranks_share_what_can_be_shared():
    alone, eight = step_time(WORK, MACHINE, 1), step_time(WORK, MACHINE, 8)
    assert alone.gather == alone.reduce == 0
    assert eight.encode == pytest.approx(alone.encode / 8)
    assert eight.loss == pytest.approx(alone.loss / 8)
    assert eight.optimizer == alone.optimizer
    assert eight.total == pytest.approx(sum(vars(eight).values()))


def test_compute_is_the_operations_counted_by_torch():
    """A tiny BERT's forward and backward, against torch's own counter, which leaves norms and softmax out too."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    model.set_attn_implementation("eager")  # the counter does not know the fused kernel of CPUs
    weights = sum(
        each.numel() for name, each in model.named_parameters() if each.ndim == 2 and "embeddings" not in name
    )
    work = replace(WORK, weights=weights, layers=3, hidden=64)
    with FlopCounterMode(display=False) as counter:
        output = model(torch.ones(4, 32, dtype=torch.long)).last_hidden_state
        output.sum().backward()
    assert 4 * 32 * token_flops(work, 32) == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_ring_moves_what_every_rank_lacks():
    assert ring(8e9, replace(MACHINE, latency=0.0), 8) == pytest.approx(8e9 * 7 / 8 / 4e11)
    assert ring(16e9, replace(MACHINE, latency=0.0), 16) == pytest.approx(16e9 * 15 / 16 / 5e10), "between nodes"
    assert ring(0, MACHINE, 64) == pytest.approx(63e-5), "latency alone"


def test_efficiency_falls_with_ranks_and_rises_with_the_batch():
    falling = [efficiency(WORK, MACHINE, ranks) for ranks in (1, 2, 8, 64, 512)]
    assert falling[0] == 1 and falling == sorted(falling, reverse=True)
    larger = replace(WORK, queries=4 * WORK.queries, passages=4 * WORK.passages)
    assert efficiency(larger, MACHINE, 64) > efficiency(WORK, MACHINE, 64)


def test_ranks_that_share_cores_gain_nothing_by_being_more():
    shared = replace(MACHINE, places=2)
    assert step_time(WORK, shared, 4).encode == step_time(WORK, shared, 2).encode
    assert step_time(WORK, shared, 4).total > step_time(WORK, shared, 2).total


@pytest.mark.parametrize(("slots", "corpus"), [(400, 100), (50, 5000), (2000, 5000)])
def test_unique_passages_are_what_drawing_gives(slots, corpus):
    random = np.random.default_rng(0)
    drawn = np.mean([len(np.unique(random.integers(corpus, size=slots))) for _ in range(200)])
    assert unique_passages(slots, corpus) == pytest.approx(drawn, rel=0.01)
    assert unique_passages(10**9, corpus) == pytest.approx(corpus)
