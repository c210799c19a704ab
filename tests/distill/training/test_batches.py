"""The plan of a step: each passage once, nothing lost, tokens balanced, the same batch for any number of ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.encoders.tokens import padded_length
from distill.training.batches import MASKED, PASS, deal, epoch_order, lists_per_epoch, plan_step, steps_per_epoch


def random_lists(seed: int, lists: int, length: int, corpus: int):
    random = np.random.default_rng(seed)
    rows = np.stack([random.permutation(corpus)[:length] for _ in range(lists)])
    rows[random.random(rows.shape) < 0.1] = MASKED
    rows[:, 0] = random.integers(0, corpus, lists)
    return rows, random.integers(3, 30, lists), random.integers(5, 256, corpus)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(16, 600))
def test_plan_holds_every_slot_and_every_passage_once(seed, lists, length, world_size, budget):
    rows, query_lengths, passage_lengths = random_lists(seed, lists, length, 50)
    queries = np.random.default_rng(seed).permutation(lists)
    plan = plan_step(queries, rows, query_lengths, passage_lengths, world_size, budget)
    assert sorted(plan.queries) == sorted(queries)
    assert len(set(plan.passages)) == len(plan.passages)
    listed = rows[plan.queries]
    assert np.array_equal(plan.slots == MASKED, listed == MASKED)
    filled = listed != MASKED
    assert np.array_equal(plan.passages[plan.slots[filled]], listed[filled])
    assert plan.counts.sum() == filled.sum()
    for shares, lengths, items in (
        (plan.query_shares, query_lengths, plan.queries),
        (plan.passage_shares, passage_lengths, plan.passages),
    ):
        assert len(shares) == world_size
        positions = [place for share in shares for batch in share.micro_batches for place in batch]
        assert positions == list(range(len(items)))
        for share in shares:
            for batch in share.micro_batches:
                assert len(batch) == 1 or padded_length(lengths[items[batch]].max()) * len(batch) <= budget


def test_batch_is_the_same_for_any_world_size():
    rows, query_lengths, passage_lengths = random_lists(1, 60, 8, 200)
    plans = [plan_step(np.arange(60), rows, query_lengths, passage_lengths, world, 512) for world in (1, 2, 5)]
    for plan in plans[1:]:
        assert set(plan.queries) == set(plans[0].queries)
        assert set(plan.passages) == set(plans[0].passages)


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_tokens_balance_over_the_ranks(world_size):
    rows, query_lengths, passage_lengths = random_lists(2, 512, 20, 4000)
    plan = plan_step(np.arange(512), rows, query_lengths, passage_lengths, world_size, 8192)
    loads = [passage_lengths[plan.passages[share.start : share.stop]].sum() for share in plan.passage_shares]
    assert max(loads) / np.mean(loads) <= 1.03


@pytest.mark.parametrize("topic_queries", [1, 16])
def test_epoch_goes_through_every_list_once_and_each_epoch_differs(topic_queries):
    rows, *_ = random_lists(3, 500, 8, 300)
    orders = [epoch_order(rows, 7, epoch, topic_queries) for epoch in (0, 1, 0)]
    assert sorted(orders[0]) == list(range(500))
    assert np.array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


@pytest.mark.parametrize("topic_queries", [1, 16])
@pytest.mark.parametrize(("weight", "least", "most"), [(0.5, 0, 1), (1, 1, 1), (2, 2, 2), (2.5, 2, 3), (0.001, 0, 1)])
def test_an_epoch_holds_logged_queries_as_often_as_their_weight_says(topic_queries, weight, least, most):
    rows, *_ = random_lists(3, 500, 8, 300)
    logged = np.arange(500) >= 420
    orders = [epoch_order(rows, 7, epoch, topic_queries, logged, weight) for epoch in range(20)]
    counts = np.array([np.bincount(order, minlength=500) for order in orders])
    assert (counts[:, ~logged] == 1).all()
    assert (counts[:, logged].min(), counts[:, logged].max()) == (least, most)
    assert {len(order) for order in orders} == {lists_per_epoch(logged, weight)} == {420 + max(1, round(80 * weight))}
    if least < most:
        assert len({tuple(row) for row in counts}) > 10, "epochs draw others"
    assert np.array_equal(orders[3], epoch_order(rows, 7, 3, topic_queries, logged, weight))


@pytest.mark.parametrize("topic_queries", [1, 16])
def test_a_log_of_weight_1_changes_no_order(topic_queries):
    rows, *_ = random_lists(3, 500, 8, 300)
    plain = epoch_order(rows, 7, 2, topic_queries)
    assert np.array_equal(epoch_order(rows, 7, 2, topic_queries, np.arange(500) % 3 == 0, 1.0), plain)
    assert np.array_equal(epoch_order(rows, 7, 2, topic_queries, np.zeros(500, bool), 3.0), plain)
    assert topic_queries > 1 or np.array_equal(plain, np.random.default_rng([7, 2]).permutation(500))


def test_repeated_queries_do_not_fill_a_block():
    rows = np.arange(64).reshape(64, 1) // 8 * 8 + np.arange(4)
    order = epoch_order(rows, 0, 0, 8, np.ones(64, bool), 8.0)
    assert all(len(set(order[start : start + 8])) == 8 for start in range(0, 512, 8))


def test_topics_bring_lists_together_that_share_passages():
    """Lists of 40 neighbourhoods of the corpus: a batch by topic names fewer passages than a shuffled one."""
    random = np.random.default_rng(4)
    rows = np.stack([50 * (n % 40) + random.permutation(50)[:10] for n in range(2000)])
    repeats = {}
    for topic_queries in (1, 16):
        order = epoch_order(rows, 0, 0, topic_queries)
        steps = [rows[order[start : start + 128]] for start in range(0, 1920, 128)]
        repeats[topic_queries] = np.mean([step.size / len(np.unique(step)) for step in steps])
    assert repeats[16] > 2 * repeats[1]


def test_fewer_lists_than_a_batch_make_one_step():
    assert steps_per_epoch(10, 4096) == 1
    assert steps_per_epoch(10_000, 4096) == 2


def best_cut(lengths, budget):
    """Least cost of any cut of descending lengths: tokens that are computed, and what a pass costs beside them."""
    costs = [0.0]
    for stop in range(1, len(lengths) + 1):
        fits = [start for start in range(stop) if padded_length(lengths[start]) * (stop - start) <= budget]
        costs.append(min(costs[s] + padded_length(lengths[s]) * (stop - s) + budget / PASS for s in fits or [stop - 1]))
    return costs[-1]


@pytest.mark.parametrize("longest", [64, 256])
def test_micro_batches_pad_little_and_are_few(longest):
    random = np.random.default_rng(longest)
    cost, least = 0.0, 0.0
    for _ in range(20):
        lengths = np.minimum(random.lognormal(np.log(longest / 3), 0.6, 300).astype(np.int64) + 3, longest)
        order, (share,) = deal(lengths, 1, 4096)
        batches = [lengths[order[batch]] for batch in share.micro_batches]
        cost += sum(padded_length(int(batch.max())) * len(batch) + 4096 / PASS for batch in batches)
        least += best_cut([int(each) for each in lengths[order]], 4096)
    assert cost <= 1.02 * least


def test_one_long_item_is_not_what_all_the_short_ones_are_padded_to():
    lengths = np.array([64, *[16] * 255])
    _, (share,) = deal(lengths, 1, 16_384)
    assert [len(batch) for batch in share.micro_batches] == [1, 255]
    _, (packed,) = deal(lengths, 1, 16_384, packed=True)
    assert [len(batch) for batch in packed.micro_batches] == [256]
