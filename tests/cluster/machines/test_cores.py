"""How many cores the workers of a stage hold where the recipe does not say."""

from __future__ import annotations

import pytest

from cluster.machines import session
from cluster.settings import PoolSettings


@pytest.mark.parametrize(
    ("nodes", "pool", "expected"),
    [
        ([16], {}, 16),
        ([16], {"workers": 3}, 5),
        ([16, 16, 8], {}, 8),
        ([16, 16], {"workers": 4}, 8),
        ([16, 16], {"workers": 5}, 5),
        ([2], {"workers": 4}, 0.5),
        ([0, 4], {}, 4),  # a head that takes no work
        ([16], {"cpus": 2.0}, 2),
        ([16], {"gpus": 1.0}, 1),
        ([0], {}, 1),
    ],
)
def test_a_worker_with_many_threads_gets_its_share_of_a_node(monkeypatch, nodes, pool, expected):
    import ray

    described = [{"Alive": True, "Resources": {"CPU": float(cores)} if cores else {}} for cores in nodes]
    monkeypatch.setattr(ray, "nodes", lambda: [*described, {"Alive": False, "Resources": {"CPU": 1.0}}])
    settings = session.with_all_cores(PoolSettings(**pool))
    assert settings.cores == expected
    assert sum(int(cores / settings.cores) for cores in nodes) >= (settings.workers or 1) or not any(nodes)
