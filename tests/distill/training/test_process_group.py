"""Where a rank computes, and what the engine is told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError

from distill.settings.training import TrainingSettings
from distill.training.deepspeed_engine import deepspeed_settings
from distill.training.process_group import own_gpu, rank_device


@pytest.mark.parametrize(
    ("local_rank", "visible", "number"),
    [(0, 8, 0), (5, 8, 5), (1, 1, 0), (3, 1, 0)],  # all GPUs of the node are seen, or only the one that was given
)
def test_every_rank_takes_its_own_gpu(local_rank: int, visible: int, number: int) -> None:
    assert own_gpu(local_rank, visible) == number


def test_gpus_of_the_machine_do_not_matter_to_ranks_of_a_gloo_group(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    assert (rank_device(), taken) == ("cpu", [])
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    assert (rank_device(), taken) == ("cuda:2", [2])


def test_float16_is_refused_since_gradients_would_vanish() -> None:
    with pytest.raises(ValidationError, match="float16"):
        TrainingSettings(dtype="float16")


def test_the_buffer_of_the_reduction_is_no_larger_than_the_gradients() -> None:
    small, large = (deepspeed_settings(TrainingSettings(), 2, count)["zero_optimization"] for count in (1000, 10**10))
    assert small["reduce_bucket_size"] == 1000
    assert large["reduce_bucket_size"] == 500_000_000
