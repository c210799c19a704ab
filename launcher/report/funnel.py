"""The report's funnel: what became of the units of every table, and how the work compares with the plan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.watch.phrases import duration, plural
from cluster.watch.status import masked
from distill.lists.duplicates import COPIES
from generation.type_figures import PASSAGE_CUT


def funnel_view(stage: Mapping[str, Any]) -> dict[str, Any]:
    """One table of the funnel: its units as rows, drops, rejects and unfinished units."""
    units = max(1, stage["units"])
    drops = _largest_first(stage["drops"])
    unfinished = max(0, stage["units"] - stage["rows"] - sum(stage["drops"].values()) - stage["rejects"])
    parts = [("rows", stage["rows"], "kept")]
    parts += [("drops", count, reason) for reason, count in drops]
    parts += [("rejects", stage["rejects"], "rejected"), ("open", unfinished, "not done yet")]
    return {
        "table": stage["table"],
        "unit": plural(stage["unit"]),
        "units": f"{stage['units']:,}",
        "rows": f"{stage['rows']:,}",
        "rejects": f"{stage['rejects']:,}" if stage["rejects"] else "",
        "drops": [(reason.replace("_", " "), f"{count:,}", _share(count, units)) for reason, count in drops],
        "parts": [
            {"style": style, "width": round(100 * count / units, 3), "tip": f"{name}: {count:,}"}
            for style, count, name in parts
            if count
        ],
        "pace": _pace(stage),
        "cut": f"{cut:,}" if (cut := stage["stats"].get(PASSAGE_CUT, 0)) else "",
        "copies": f"{copies:,}" if (copies := stage["stats"].get(COPIES, 0)) else "",
        "masked": [(name, f"{count:,}") for name, count in masked(stage)],
    }


def _largest_first(drops: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((reason, count) for reason, count in drops.items() if count), key=lambda drop: -drop[1])


def _share(count: int, units: int) -> str:
    share = 100 * count / units
    return f"{share:.0f} %" if share >= 1 else "under 1 %"


def _pace(stage: Mapping[str, Any]) -> str:
    parts = [f"{stage['shards_done']} of {stage['shards']} shards", f"{stage['seconds']:,.1f} s of work"]
    if stage["held_s"] > 0:
        parts.append(f"{stage['cpu_s'] / stage['held_s']:.0%} of the held cores used")
    if stage["seconds"] > 0:
        parts.append(f"{stage['rows'] / stage['seconds']:,.0f} rows/s")
        if stage["tokens"]:
            parts.append(f"{stage['tokens'] / stage['seconds']:,.0f} tokens/s")
    return ", ".join(parts)


def plan_view(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts of one row of `compare_with_plan`."""
    (units, units_done), (tokens, tokens_done), (hours, hours_done) = row["units"], row["tokens"], row["hours"]
    has_hours = hours and hours[1]
    return {
        "step": row["step"],
        "work": row["work"],
        "units": f"{units:,}",
        "units_done": f"{units_done:,}",
        "tokens": f"{tokens:,}" if tokens else "",
        "tokens_done": f"{tokens_done:,}" if tokens_done else "",
        "hours": f"{duration(hours[0] * 3600)} to {duration(hours[1] * 3600)}" if has_hours else "",
        "hours_done": duration(hours_done * 3600),
    }
