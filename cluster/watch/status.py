"""Where a run stands, from storage alone: works with no cluster alive."""

from __future__ import annotations

from typing import Any

from cluster.schemas import STAGES, stage_of
from cluster.tables.storage import Storage
from cluster.tables.table import Table, planned_tables
from cluster.watch.heartbeat import Heartbeat, Totals, last_heartbeat
from cluster.watch.phrases import describe


def status(storage: Storage) -> list[dict[str, Any]]:
    """One record per planned table, in the order in which they are made.

    Keys, of what is committed: stage, table, unit, shards, shards_done, units, units_done, rows, drops (by reason),
    rejects, tokens, seconds (of work, summed over workers), rows_per_s (of one worker), stats.

    Keys, as the driver last said (`cluster/watch/heartbeat.py`): running and failed (shards), all_rows_per_s and
    all_tokens_per_s (of all workers together), left_s (low, middle, high), slow (worker, node, times as slow as the
    others), heard_s (seconds since it said so), why (it failed), now (all that in words). And `state`: done; running;
    failed; interrupted; gone (its driver's process is no more); silent (a driver on another machine has not been heard
    of for long); stopped (not done, and nothing is known of a driver). `running` counts only where `state` is running.
    """
    tables = planned_tables(storage)
    order = [folder for folders in STAGES.values() for folder in folders]
    tables.sort(key=lambda path: order.index(path.split("/")[0]) if path.split("/")[0] in order else len(order))
    return [record for path in tables if (record := _table_status(storage, path))]


def _table_status(storage: Storage, path: str) -> dict[str, Any] | None:
    try:
        table = Table.open(storage, path)
    except KeyError:  # removed meanwhile, or a stage in one piece, whose plan has no shards
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
        "stats": totals.stats,
    }
    done = totals.shards == len(table.plan.shards)
    state = "done" if done else beat.standing() if beat else "stopped"
    record |= {"state": state, "running": 0, "failed": 0, "all_rows_per_s": None, "all_tokens_per_s": None}
    record |= {"left_s": None, "slow": [], "heard_s": None, "why": "", "now": []}
    if beat:
        record |= {"heard_s": round(beat.heard_s(), 1), "why": "" if done else beat.why}
        record |= {"all_rows_per_s": round(beat.rows_per_s, 2), "all_tokens_per_s": round(beat.tokens_per_s, 2)}
        if not done:
            record |= {
                "running": beat.running if state == "running" else 0,
                "failed": len(beat.failing),
                "now": describe(beat),
            }
            record["left_s"] = beat.left and [round(s, 1) for s in (beat.left.low, beat.left.middle, beat.left.high)]
            record["slow"] = [{"worker": one.name, "node": one.node, "times": one.times} for one in beat.slow]
    return record


def _totals(table: Table, beat: Heartbeat | None) -> Totals:
    """Sums over what is committed. Of a table in work, only commit records that its driver did not count are read."""
    if not beat or table.sealed():
        return Totals.of(table.commits())
    known, committed = beat.knows(table.plan.shards), table.committed_names()
    if known - committed:  # a damaged shard was taken back
        return Totals.of(table.commits())
    totals = beat.totals
    for commit in table.read_commits(committed - known):
        totals.add(commit)
    return totals
