"""What goes on, in words for the terminal: a stage in a few lines, rates, times, and a time with its spread."""

from __future__ import annotations

from cluster.watch.estimate import Left
from cluster.watch.heartbeat import Heartbeat


def describe(beat: Heartbeat) -> list[str]:
    """A stage in work in a few words: one line for all of it, one for each slow worker."""
    if beat.state == "running" and not beat.running and not any(worker.ready for worker in beat.workers):
        doing = f"{len(beat.workers)} workers starting" if len(beat.workers) != 1 else "1 worker starting"
    else:
        nodes = len({worker.node for worker in beat.workers})
        doing = f"{beat.running} running" + (f" on {nodes} nodes" if nodes > 1 else "")
    words = [f"{beat.totals.shards:,}/{beat.shards:,} shards", doing]
    if beat.failing:
        words.append(f"{len(beat.failing)} failed")
    elif beat.failures:
        words.append(f"{beat.failures} failed, tried again")
    words.append(f"{rate(beat.rows_per_s)} rows/s")
    if beat.tokens_per_s:
        words.append(f"{rate(beat.tokens_per_s)} tokens/s")
    if beat.totals.rejects:
        words.append(f"{beat.totals.rejects:,} rejected")
    if beat.left:
        words.append(f"{span(beat.left)} left")
    slow = [
        f"slow: {worker.name} on {worker.node} takes {worker.times:.1f} × as long as the others"
        + (f", in work: {', '.join(f'{name} for {duration(s)}' for name, s in worker.shards)}" if worker.shards else "")
        for worker in beat.slow
    ]
    more = [f"and {len(slow) - 3} more slow workers"] if len(slow) > 3 else []
    return [" · ".join(words), *slow[:3], *more]


def rate(value: float) -> str:
    """A number per second: with a digit behind the point where it is small."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.1f}" if value >= 0.1 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def span(left: Left) -> str:
    """A range of times, its ends in the same unit where that is readable."""
    low, high = duration(left.low), duration(left.high)
    if low == high:
        return low
    (first, _, one), (second, _, other) = low.partition(" "), high.partition(" ")
    return f"{first}–{second} {one}" if one == other and " " not in one else f"{low} – {high}"
