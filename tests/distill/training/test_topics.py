"""Topics hold every list once, and bring together what belongs together."""

from __future__ import annotations

import numpy as np
import pytest

from distill.training.topics import topic_blocks


def planted(neighbourhoods: int, lists: int, seed: int = 0) -> np.ndarray:
    """(lists, 10) lists, each drawn from the 50 passages of one of the neighbourhoods."""
    random = np.random.default_rng(seed)
    return np.stack([50 * (n % neighbourhoods) + random.permutation(50)[:10] for n in range(lists)])


@pytest.mark.parametrize(("lists", "size"), [(1, 1), (7, 16), (100, 16), (1000, 64), (1000, 1)])
def test_every_list_is_in_one_block_and_blocks_are_equally_large(lists: int, size: int) -> None:
    blocks = topic_blocks(planted(5, lists), size, np.random.default_rng(0))
    assert sorted(np.concatenate(blocks)) == list(range(lists))
    sizes = [len(block) for block in blocks]
    assert len(sizes) == max(1, lists // size)
    assert max(sizes) - min(sizes) <= 1


def test_planted_neighbourhoods_are_found() -> None:
    rows = planted(16, 1024)
    blocks = topic_blocks(rows, 64, np.random.default_rng(1))
    pure = [np.bincount(block % 16).max() / len(block) for block in blocks]
    assert np.mean(pure) > 0.9, "a block holds lists of one neighbourhood, not of all sixteen"


def test_empty_slots_bring_nothing_together() -> None:
    """Half of the lists of either neighbourhood are short: their emptiness is no passage that they share."""
    rows = planted(2, 400)
    rows[: len(rows) // 2, 3:] = -1
    left, right = topic_blocks(rows, 200, np.random.default_rng(2))
    assert len(set(left % 2)) == len(set(right % 2)) == 1


def test_the_same_state_gives_the_same_blocks_and_another_gives_others() -> None:
    rows = planted(8, 500)
    one, two, other = (topic_blocks(rows, 32, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(one, other, strict=False))
