"""The learning rate of every step against straight lines between three points; a warm-up in steps or in epochs."""

from __future__ import annotations

import numpy as np
import pytest

from distill.settings.training import TrainingSettings
from distill.training.setup import plan_schedule
from distill.training.trainer import learning_rate


@pytest.mark.parametrize(
    ("warmup", "steps"),
    [({"warmup_steps": 5}, 5), ({"warmup_epochs": 0.5}, 4), ({"warmup_epochs": 2, "warmup_steps": 1}, 16),
     ({"warmup_epochs": 0.0}, 0)],
)  # fmt: skip
def test_the_rate_rises_to_the_end_of_the_warm_up_and_falls_to_the_last_step(warmup: dict, steps: int):
    training = TrainingSettings(queries_per_step=10, epochs=3, learning_rate=2e-4, final_learning_rate=0.1, **warmup)
    schedule = plan_schedule(80, training, 1)
    assert (schedule.per_epoch, schedule.total, schedule.warmup) == (8, 24, steps)
    points = [(-1, 0.0), *([(steps - 1, 2e-4)] if steps else []), (steps, 2e-4), (23, 2e-5)]
    expected = np.interp(np.arange(24), *zip(*points, strict=True))
    np.testing.assert_allclose([learning_rate(step, schedule, training) for step in range(24)], expected)


def test_a_warm_up_in_epochs_is_in_the_identity_of_a_training_only_where_it_is_set():
    assert "warmup_epochs" not in TrainingSettings().identity()
    assert TrainingSettings(warmup_epochs=0.5).identity()["warmup_epochs"] == 0.5
