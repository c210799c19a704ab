"""The status of a run, read from storage alone, so that it works without a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.schemas import STAGES, stage_of
from cluster.tables.storage import Storage
from cluster.tables.table import Table, planned_tables
from cluster.watch.heartbeat import Heartbeat, Totals, last_heartbeat
from cluster.watch.phrases import describe


def status(storage: Storage) -> list[dict[str, Any]]:
    """The status of every planned table, one record each, in the order of the stages.

    Keys about committed work: stage, table, unit, shards, shards_done, units, units_done, rows, drops (by reason),
    rejects, tokens, seconds (of work, summed over workers), rows_per_s (of one worker), cpu_s (processor time that was
    used), held_s (cores that were held, times seconds), stats.

    Keys from the driver's last report (`cluster/watch/heartbeat.py`): running and failed (numbers of shards; running
    is 0 unless `state` is running), all_rows_per_s and all_tokens_per_s (of all workers together), cores_held and
    cores_used (means of all workers together), left_s (low, middle, high), slow (worker, node, times as slow as the
    others), heard_s (age of the report in seconds), why (the error, if it failed), now (all this as text).

    The key `state` is one of: done; running; failed; interrupted; gone (the driver's process has ended without a
    report); silent (a driver on another machine has not reported for long); stopped (not done, and no report exists).
    """
    tables = planned_tables(storage)
    order = [folder for folders in STAGES.values() for folder in folders]
    tables.sort(key=lambda path: order.index(path.split("/")[0]) if path.split("/")[0] in order else len(order))
    return [record for path in tables if (record := _table_status(storage, path))]


def masked(stage: Mapping[str, Any]) -> list[tuple[str, int]]:
    """What a table of `status` has masked: kind and count, such as ("email", 3)."""
    counts = sorted(stage["stats"].items())
    return [(name.removeprefix("masked_"), count) for name, count in counts if name.startswith("masked_") and count]


def _table_status(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        table = Table.open(storage, path)
    except KeyError:  # removed meanwhile, or a one-process stage, whose plan has no shards
        return None
    beat = last_heartbeat(storage, path, table.plan.id)
    totals = _totals(table, beat)
    record = {
        "stage": stage_of(path),
        "table": path,
        "unit": table.plan.unit,
        "shards": len(table.plan.shards),
        "shards_done": totals.shards,
        "units": table.plan.units,
        "units_done": totals.units,
        "rows": totals.rows,
        "drops": totals.drops,
        "rejects": totals.rejects,
        "tokens": totals.tokens,
        "seconds": round(totals.seconds, 3),
        "rows_per_s": round(totals.rows / totals.seconds, 1) if totals.seconds else None,
        "cpu_s": round(totals.cpu_s, 3),
        "held_s": round(totals.held_s, 3),
        "stats": totals.stats,
    }
    done = totals.shards == len(table.plan.shards)
    state = "done" if done else beat.current_state() if beat else "stopped"
    record |= {"state": state, "running": 0, "failed": 0, "all_rows_per_s": None, "all_tokens_per_s": None}
    record |= {
        "left_s": None,
        "slow": [],
        "heard_s": None,
        "why": "",
        "now": [],
        "cores_held": None,
        "cores_used": None,
    }
    if beat:
        if beat.cores and totals.used is not None:
            record |= {"cores_held": beat.cores, "cores_used": round(totals.used * beat.cores, 2)}
        record |= {"heard_s": round(beat.heard_s(), 1), "why": "" if done else beat.why}
        record |= {"all_rows_per_s": round(beat.rows_per_s, 2), "all_tokens_per_s": round(beat.tokens_per_s, 2)}
        if not done:
            record |= {
                "running": beat.running if state == "running" else 0,
                "failed": len(beat.failing),
                "now": describe(beat),
            }
            record["left_s"] = beat.left and [round(s, 1) for s in (beat.left.low, beat.left.middle, beat.left.high)]
            record["slow"] = [
                {"worker": worker.name, "node": worker.node, "times": worker.times} for worker in beat.slow
            ]
    return record


def _totals(table: Table, beat: Heartbeat | None) -> Totals:
    """Sums over all committed shards. For a running table, this reads only the records that the heartbeat omits."""
    if not beat or table.sealed():
        return Totals.of(table.commits())
    counted, committed = beat.counted_shards(table.plan.shards), table.committed_names()
    if counted - committed:  # the commit of a damaged shard was withdrawn
        return Totals.of(table.commits())
    totals = beat.totals
    for commit in table.read_commits(committed - counted):
        totals.add(commit)
    return totals
