"""Copies in an arena are the tensors they were made of, beside each other, for one step."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import RunError
from distill.activations.arena import ALIGNED, Arena

SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=4)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8])


def made(shape: list[int], dtype: torch.dtype, turned: bool) -> torch.Tensor:
    tensor = torch.randint(0, 100, shape).to(dtype)
    return tensor.transpose(0, -1) if turned else tensor


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SHAPES, DTYPES, st.booleans()), min_size=1, max_size=9))
def test_copies_are_equal_and_beside_each_other(kinds):
    tensors = [made(*kind) for kind in kinds]
    arena = Arena()
    arena.start(sum(each.nbytes + ALIGNED for each in tensors))
    copies = [arena.hold(each) for each in tensors]
    versions = [copy._version for copy in copies]
    assert all(copy.data_ptr() % ALIGNED == 0 for copy in copies)
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1
    for tensor, copy in zip(tensors, copies, strict=True):
        assert copy.stride() == tensor.stride() and torch.equal(copy, tensor)
        tensor.zero_()
    arena.hold(copies[0])
    assert [copy._version for copy in copies] == versions, "autograd would take it for a change"


def test_what_has_no_room_or_has_gaps_stays_where_it_is():
    arena, tensor = Arena(), torch.ones(1000, 1000)
    assert arena.hold(tensor) is tensor
    arena.start(3 * tensor.nbytes)
    held = [arena.hold(tensor) for _ in range(5)]
    assert [each is tensor for each in held[:3]] == [False] * 3 and held[4] is tensor
    arena.start(0)
    gaps = tensor[:, :10]
    assert arena.hold(gaps) is gaps and arena.hold(tensor) is not tensor


def test_steps_share_their_memory_and_copies_outlive_it():
    arena, tensor = Arena(), torch.arange(1000)
    arena.start(tensor.nbytes)
    first = arena.hold(tensor)
    place, size = first.data_ptr(), arena.size
    arena.start(tensor.nbytes // 2)
    assert arena.hold(tensor).data_ptr() == place and arena.size == size >= tensor.nbytes
    arena.start(10 * size)
    assert arena.size >= 10 * size
    arena.release()
    assert arena.size == 0 and torch.equal(first, tensor)


def test_more_than_there_is_is_refused_with_what_to_change():
    with pytest.raises(RunError, match=r"GiB for activations cannot be had here .* training\.activation_mib"):
        Arena().start(1 << 60)
