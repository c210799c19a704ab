"""What is said when a rank fails, at once and not only when the ranks have failed too often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.train import UserCallback

from cluster.machines import ray_errors

OUT_OF_MEMORY = "OutOfMemoryError"
REMEDY = "a rank takes less with a lower training.micro_batch_tokens or training.activation_mib"


class TellFailures(UserCallback):
    """Puts a sentence into the mailbox whenever Ray Train finds that a rank has failed.

    Args:
        mailbox: actor of `Mailbox`.
        title: of the training.
        most: how often ranks are started again.
    """

    def __init__(self, mailbox: Any, title: str, most: int) -> None:
        self._mailbox, self._title, self._most = mailbox, title, most
        self._count = 0

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called in the process of Ray Train that looks after the ranks."""
        import ray

        if not worker_exceptions or ray.get(self._mailbox.outcome.remote()):
            return  # a rank has told its own end
        self._count += 1
        rank, why = first_cause(worker_exceptions)
        again = f"The ranks start again from the newest checkpoint ({self._count} of {self._most} times)."
        last = f"It was the last of {self._most + 1} attempts."
        text = f"{self._title}: rank {rank} has failed: {why}. {again if self._count <= self._most else last}"
        ray.get(self._mailbox.put.remote({"note": text}))


def first_cause(failures: Mapping[int, Exception]) -> tuple[int, str]:
    """Rank and cause, in words, of the failure that explains the others.

    Args:
        failures: by rank, not empty. A rank that ran out of memory explains why the others lost it.
    """
    causes = {rank: getattr(error, "health_check_failure", error) for rank, error in failures.items()}
    rank, error = min(causes.items(), key=lambda one: (type(one[1]).__name__ != OUT_OF_MEMORY, one[0]))
    why = ray_errors.meaning(error) or ray_errors.last_line(error)
    return rank, f"{why}; {REMEDY}" if type(error).__name__ == OUT_OF_MEMORY else why
