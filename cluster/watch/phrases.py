"""Phrases for the terminal: a running stage in a few lines, rates, durations, and a range of durations."""

from __future__ import annotations

from cluster.watch.estimate import TimeLeft
from cluster.watch.heartbeat import Heartbeat


def describe(beat: Heartbeat) -> list[str]:
    """Lines about a running stage: one for the whole stage, and one for each of the three slowest workers."""
    if beat.state == "running" and not beat.running and not any(worker.ready for worker in beat.workers):
        doing = f"{len(beat.workers)} workers starting" if len(beat.workers) != 1 else "1 worker starting"
    else:
        nodes = len({worker.node for worker in beat.workers})
        doing = f"{beat.running} running" + (f" on {nodes} nodes" if nodes > 1 else "")
    parts = [f"{beat.totals.shards:,}/{beat.shards:,} shards", doing]
    if beat.failing:
        parts.append(f"{len(beat.failing)} failed")
    elif beat.failures:
        parts.append(f"{beat.failures} failed, tried again")
    parts.append(f"{rate(beat.rows_per_s)} rows/s")
    if beat.tokens_per_s:
        parts.append(f"{rate(beat.tokens_per_s)} tokens/s")
    if beat.cores_used is not None:
        parts.append(f"{beat.cores_used:.1f} of {beat.cores:g} cores used")
    if beat.totals.rejects:
        parts.append(f"{beat.totals.rejects:,} rejected")
    if beat.left:
        parts.append(f"{span(beat.left)} left")
    slow = [
        f"slow: {worker.name} on {worker.node} takes {worker.times:.1f} × as long as the others"
        + (f", in work: {', '.join(f'{name} for {duration(s)}' for name, s in worker.shards)}" if worker.shards else "")
        for worker in beat.slow
    ]
    more = [f"and {len(slow) - 3} more slow workers"] if len(slow) > 3 else []
    return [" · ".join(parts), *slow[:3], *more]


def rate(value: float) -> str:
    """A number per second as text; a small one has digits after the point."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A duration as text, in one or two units: "99 s", "2 min", "2 h 00 min", "2 d 7 h"."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def span(left: TimeLeft) -> str:
    """A range of durations as text: "60–80 s" if both ends have the same single unit, else "60 s – 5 min"."""
    low, high = duration(left.low), duration(left.high)
    if low == high:
        return low
    (first, _, unit), (second, _, other_unit) = low.partition(" "), high.partition(" ")
    return f"{first}–{second} {unit}" if unit == other_unit and " " not in unit else f"{low} – {high}"


def plural(unit: str) -> str:
    """The unit of a table or bar for any number but one: queries, input records."""
    if "×" in unit or unit.endswith("s"):
        return unit
    return f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
