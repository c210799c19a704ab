"""The report's section on teachers: how far they agree, and what their weights are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.lists.ensemble_stage import in_words
from distill.teachers.adapting import judge


def teachers_view(
    agreement: Mapping[str, Any], ensemble: Mapping[str, Any], adapted: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[str, Any] | None:
    """Texts for the page; None if there is nothing to show.

    Args:
        agreement: `agreement/record.json`, or empty.
        ensemble: `ensemble/record.json`, or empty.
        adapted: `teachers/NAME/record.json` and `judgement.json` of every teacher that was made in the run, by name.
    """
    pairs = [
        {
            "pair": f"{pair['first']}, {pair['second']}",
            "queries": f"{pair['queries']:,}",
            "tau": "" if pair["tau"] is None else f"{pair['tau']:.3f}",
            "overlap": f"{100 * pair['overlap']:.0f} %",
        }
        for pair in agreement.get("pairs", [])
    ]
    if not pairs and not ensemble and not adapted:
        return None
    learnt = ensemble.get("learnt")
    return {
        "pairs": pairs,
        "adapted": [row for name, record in (adapted or {}).items() for row in _before_and_after(name, record)],
        "decisions": [f"Teacher {name}: {judge.in_words(record)}" for name, record in (adapted or {}).items()],
        "weights": _weights(ensemble) if ensemble else [],
        "learnt": f"Weights: {in_words(learnt)}" if learnt else "",
    }


def _before_and_after(name: str, record: Mapping[str, Any]) -> list[dict[str, str]]:
    """How the other teachers and the one that was made rank held-out sources; empty where nothing was judged."""
    who = {
        "others": "the others", "untrained": f"{name}, before", "adapted": f"{name}, fine-tuned",
        "together": f"the others and {name}",
    }  # fmt: skip
    return [
        {"teacher": who[key], "mrr": f"{record[key]['mrr']:.4f}", "first": f"{100 * record[key]['first']:.1f} %"}
        for key in who
        if record.get(key)
    ]


def _weights(ensemble: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row for each teacher: its weight, and the scores that became 0 and 1."""
    combined = ensemble["ensemble"]
    ranges = combined["ranges"] or [None] * len(ensemble["teachers"])
    return [
        {
            "teacher": name,
            "weight": f"{weight:g}",
            "zero": f"{of_teacher[0]:.4g}" if of_teacher else "",
            "one": f"{of_teacher[0] + of_teacher[1]:.4g}" if of_teacher else "",
        }
        for name, weight, of_teacher in zip(ensemble["teachers"], combined["weights"], ranges, strict=True)
    ]
