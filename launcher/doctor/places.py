"""Where the workers of a recipe find room on a cluster, and the cores that they hold there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

from cluster.machines import session
from cluster.settings import PoolSettings
from launcher.doctor.finding import CLUSTER, HERE, Finding
from launcher.environment import cores
from launcher.placement import demanding_pools, pools, threaded
from launcher.recipe import Recipe


def check_placement(recipe: Recipe) -> Iterator[Finding]:
    """Checks for each stage that needs GPUs or custom resources whether a node can hold one of its workers."""
    for stage, pool in demanding_pools(recipe).items():
        need = f"{stage}: each worker wants {session.describe_request(pool)}"
        if workers := session.places_for(pool):
            yield Finding("ok", "places", f"{need}; there is room for {workers}", node=CLUSTER)
        else:
            yield Finding("failure", "places", f"{need}, and no node has that", "change the stage's pool", CLUSTER)


def cores_on_cluster(recipe: Recipe) -> Finding:
    """How many workers each stage on CPUs has on this cluster, and how many cores each of them holds."""
    return _cores(recipe, CLUSTER, session.with_all_cores, session.places_for)


def cores_here(recipe: Recipe) -> Finding:
    """The same for a run that starts Ray on this machine."""
    most = min(recipe.cluster.cpus or cores(), cores())
    return _cores(
        recipe, HERE, lambda pool: pool.sharing(most), lambda pool: int(most / pool.cores) if pool.cores else most
    )


def _cores(
    recipe: Recipe, node: str, shared: Callable[[PoolSettings], PoolSettings], places: Callable[[PoolSettings], int]
) -> Finding:
    many, told = threaded(recipe), []
    for stage, asked in pools(recipe).items():
        pool = shared(asked) if stage in many else asked
        if not pool.gpus:
            told.append(f"{stage}: {min(pool.workers or sys.maxsize, places(pool))} × {pool.cores:g}")
    return Finding("ok", "cores held", f"workers × cores, where there are as many shards: {'; '.join(told)}", node=node)
