"""Prometheus metrics of a stage, published through Ray: every node of a cluster serves them on its metrics port.

They are gauges of the driver, with the label `table`, and hold the same numbers as `listwise status`. Ray adds the
prefix `ray_` to each name.
"""

from __future__ import annotations

from typing import Any

from cluster.watch.heartbeat import Heartbeat

GAUGES = {
    "listwise_shards": ("shards by state: planned, done, running, failed", ("table", "state")),
    "listwise_rows": ("rows that are committed", ("table",)),
    "listwise_tokens": ("tokens that committed rows took", ("table",)),
    "listwise_rejects": ("units that could not be done", ("table",)),
    "listwise_failures": ("attempts that failed", ("table",)),
    "listwise_rows_per_second": ("rows a second, of all workers", ("table",)),
    "listwise_tokens_per_second": ("tokens a second, of all workers", ("table",)),
    "listwise_seconds_left": ("time left; four of five outcomes lie between quantiles 0.1 and 0.9",
                              ("table", "quantile")),
    "listwise_worker_slowness": ("time for a unit, in multiples of what the other workers take",
                                 ("table", "worker", "node")),
}  # fmt: skip


class StageMetrics:
    """The gauges of one table. Ray must be connected."""

    def __init__(self, table: str) -> None:
        from ray.util.metrics import Gauge

        self.table = table
        self._gauges: dict[str, Any] = {
            name: Gauge(name, description=text, tag_keys=keys) for name, (text, keys) in GAUGES.items()
        }
        self._workers: set[tuple[str, str]] = set()

    def show(self, beat: Heartbeat) -> None:
        """Sets all gauges to the figures of a heartbeat."""
        totals = beat.totals
        shards = {"planned": beat.shards, "done": totals.shards, "running": beat.running, "failed": len(beat.failing)}
        for state, count in shards.items():
            self._set("listwise_shards", count, state=state)
        self._set("listwise_rows", totals.rows)
        self._set("listwise_tokens", totals.tokens)
        self._set("listwise_rejects", totals.rejects)
        self._set("listwise_failures", beat.failures)
        self._set("listwise_rows_per_second", beat.rows_per_s)
        self._set("listwise_tokens_per_second", beat.tokens_per_s)
        left = (beat.left.low, beat.left.middle, beat.left.high) if beat.left else (0.0, 0.0, 0.0)
        for quantile, seconds in zip(("0.1", "0.5", "0.9"), left, strict=True):
            self._set("listwise_seconds_left", seconds, quantile=quantile)
        slowness = {(worker.name, worker.node): worker.times for worker in beat.workers if worker.times}
        for name, node in self._workers - slowness.keys():  # Ray would keep the last value of a worker that has ended
            self._set("listwise_worker_slowness", 0.0, worker=name, node=node)
        for (name, node), times in slowness.items():
            self._set("listwise_worker_slowness", times, worker=name, node=node)
        self._workers |= slowness.keys()

    def _set(self, name: str, value: float, **labels: str) -> None:
        self._gauges[name].set(float(value), {"table": self.table, **labels})
