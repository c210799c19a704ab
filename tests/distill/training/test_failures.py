"""A rank that ran out of memory is named first: the others fail because they lost it."""

from __future__ import annotations

import ray.exceptions
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from distill.training.failures import first_cause


def test_memory_explains_the_other_failures_and_has_a_remedy() -> None:
    lost = WorkerHealthCheckFailedError("a health check failed", ray.exceptions.ActorDiedError())
    memory = WorkerHealthCheckFailedError("a health check failed", ray.exceptions.OutOfMemoryError("used 99 %"))
    rank, why = first_cause({0: lost, 3: memory})
    assert rank == 3
    assert why.startswith("a machine ran out of memory") and "training.micro_batch_tokens" in why
    assert first_cause({1: lost, 2: lost}) == (1, "a process of the run has died")
    assert first_cause({0: RuntimeError("one\ntwo")}) == (0, "two")
