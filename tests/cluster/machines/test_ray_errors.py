"""Errors of Ray are told in words; what Ray writes for its developers goes into a log of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from ray import exceptions

from cluster.errors import InputError, RunError
from cluster.machines import ray_errors
from cluster.run import RAY_LOG

ERRORS = {
    "ran out of memory": exceptions.OutOfMemoryError("\x1b[31mTask was killed\x1b[0m"),
    "object store is full": exceptions.ObjectStoreFullError("full"),
    "did not answer in time": exceptions.GetTimeoutError("Get timed out"),
    "has died": exceptions.ActorDiedError(),
    "environment of a worker": exceptions.RuntimeEnvSetupError("pip failed"),
    "demands a token": exceptions.AuthenticationError("no token"),
    "Ray itself failed": exceptions.RaySystemError("broken"),
}


@pytest.mark.parametrize("words", ERRORS)
def test_each_kind_says_what_happened_and_what_to_do(words: str) -> None:
    told = ray_errors.explain(ERRORS[words], "/run/logs/ray.log")
    assert told and words in told
    assert "the same command continues. Details: /run/logs/ray.log" in told
    assert "\x1b" not in told and "\\x1b" not in told and "\n" not in told


def test_other_errors_are_none_of_rays() -> None:
    assert ray_errors.explain(ValueError("a bug of ours")) is None
    assert ray_errors.explain(RuntimeError("a bug of ours")) is None


@ray.remote(num_cpus=0, max_retries=0)
def fail(kind: type[Exception]) -> None:
    raise kind("the cause of it")


def test_a_run_that_ray_fails_ends_with_one_sentence_and_a_log(run: Callable, tmp_path: Path) -> None:
    with pytest.raises(RunError) as ended, run() as failing:
        ray.get(fail.remote(ValueError))
    told = str(ended.value)
    assert told.startswith("a process of the run failed (ValueError: the cause of it).")
    assert told.endswith(f"Details: {failing.storage.url}/{RAY_LOG}")
    log = (tmp_path / "run" / RAY_LOG).read_text()
    assert "Traceback" in log and "the cause of it" in log and "\x1b" not in log


def test_an_error_of_ours_that_ray_carries_stays_what_it_was(run: Callable) -> None:
    with pytest.raises(InputError, match=r"^the cause of it$"), run():
        ray.get(fail.remote(InputError))
