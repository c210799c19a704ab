"""The ledger of faults: notes each fault that was caused without loss, and sums up tries and times to recover."""

from __future__ import annotations

import json
import os
import statistics
from pathlib import Path

VARIABLE = "CHAOS_LEDGER"  # file that the tests append to


def note(fault: str, recovery_s: float | None) -> None:
    """Notes a fault after which every unit was found exactly once. Call it after the test has asserted that.

    Args:
        fault: the fault, in a few words.
        recovery_s: seconds from the fault until the work that it interrupted was done; None if it interrupted nothing.
    """
    if path := os.environ.get(VARIABLE):
        with Path(path).open("a") as file:
            file.write(json.dumps({"fault": fault, "recovery_s": recovery_s}) + "\n")


def table(ledger: Path, failed: dict[str, int]) -> str:
    """The ledger as a Markdown table. `failed` counts failed rounds by test."""
    lines = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    by_fault: dict[str, list[float]] = {}
    counts: dict[str, int] = {}
    for line in lines:
        counts[line["fault"]] = counts.get(line["fault"], 0) + 1
        by_fault.setdefault(line["fault"], []).extend([line["recovery_s"]] if line["recovery_s"] is not None else [])
    rows = ["| fault | tried | lost | recovery, median (most) |", "|---|---|---|---|"]
    for fault in sorted(counts):
        seconds = by_fault[fault]
        recovery = f"{statistics.median(seconds):.1f} s ({max(seconds):.1f} s)" if seconds else "–"
        rows.append(f"| {fault} | {counts[fault]} | nothing | {recovery} |")
    rows += [f"| {test} | {count} × FAILED | | |" for test, count in sorted(failed.items())]
    return "\n".join(rows)
