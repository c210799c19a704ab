"""The report's section on single queries: how many the student won and lost, and the largest of both."""

from __future__ import annotations

import json
from typing import Any

from cluster.tables.records import read_record
from cluster.tables.storage import Storage
from launcher.report import charts

SHOWN_QUERIES = 8  # of the largest wins, and as many of the largest losses


def by_query_view(storage: Storage) -> dict[str, Any] | None:
    """The distribution of wins and losses from per_query.jsonl, and the largest of both from examples.json."""
    try:
        lines = storage.get("evaluation/per_query.jsonl").decode().splitlines()
    except KeyError:
        return None
    rows = [json.loads(line) for line in lines]
    differences = [row["student"] - row["base"] for row in rows]
    wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    examples = read_record(storage, "evaluation/examples.json") or {}
    return {
        "wins": f"{wins:,}",
        "losses": f"{losses:,}",
        "ties": f"{len(rows) - wins - losses:,}",
        "histogram": charts.difference_histogram(differences, "student minus base; ties are not drawn"),
        "sides": [
            {"title": "Largest gains", "tone": "win", "rows": examples.get("wins", [])[:SHOWN_QUERIES]},
            {"title": "Largest losses", "tone": "loss", "rows": examples.get("losses", [])[:SHOWN_QUERIES]},
        ],
    }
