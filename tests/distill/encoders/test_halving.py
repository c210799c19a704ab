"""A batch that runs out of memory is halved; what fits costs nothing beside."""

from __future__ import annotations

import gc

import pytest

from distill.encoders.halving import halved_until_it_fits


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda *_: calls.append(1))
    return calls


def test_an_attempt_that_fits_is_made_once_and_collects_no_garbage(collected: list[int]) -> None:
    sizes: list[int] = []
    assert halved_until_it_fits(lambda size: sizes.append(size) or "done", 64) == ("done", 64)
    assert (sizes, collected) == ([64], [])


def test_the_size_is_halved_until_memory_is_enough(collected: list[int]) -> None:
    def attempt(size: int) -> int:
        if size > 10:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return size

    assert halved_until_it_fits(attempt, 64) == (8, 8)
    assert len(collected) == 3


def test_the_largest_one_alone_is_tried_once(collected: list[int]) -> None:
    sizes: list[int] = []

    def attempt(size: int) -> None:
        sizes.append(size)
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(RuntimeError, match="one sequence alone runs out of memory") as raised:
        halved_until_it_fits(attempt, 4)
    assert sizes == [4, 2, 1] and "2.00 GiB" in str(raised.value.__cause__)
    sizes.clear()
    with pytest.raises(RuntimeError, match="one sequence alone"):
        halved_until_it_fits(attempt, 4096, alone=500)
    assert sizes == [4096, 2048, 1024, 512, 256]
    sizes.clear()
    with pytest.raises(RuntimeError, match="one sequence alone"):
        halved_until_it_fits(attempt, 4096, alone=8192)
    assert sizes == [4096]


def test_other_errors_are_raised_at_once(collected: list[int]) -> None:
    with pytest.raises(RuntimeError, match="shape"):
        halved_until_it_fits(lambda _: (_ for _ in ()).throw(RuntimeError("shape mismatch")), 64)
    assert collected == []
