"""The report's beginning: is the student better than its base?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.training.chosen import BASE_STAYS, base_stays, chosen_in_words
from launcher.report import charts

METRICS = {"ndcg@10": "nDCG@10", "recall@100": "recall@100", "mrr@10": "MRR@10"}


def verdict_view(report: Mapping[str, Any]) -> dict[str, Any]:
    """Texts for the page: headline and verdict; with an evaluation also its metrics, the interval and its picture."""
    if "student" not in report:
        if report["training"]:
            lede = "No judged queries have compared it with its base yet; the dev lists alone do not decide that."
            headline = "The student is trained, not judged"
            if base_stays(report["training"]):
                headline, lede = BASE_STAYS, _base_stays(report["training"])
            return {"headline": headline, "verdict": lede, "metrics": []}
        return {"headline": "This run is not finished", "verdict": "", "metrics": []}
    base, student, difference = report["base"], report["student"], report["difference"]
    low, high = difference["low"], difference["high"]
    tone = "better" if low > 0 else "worse" if high < 0 else "same"
    sentence, _, rest = str(report["verdict"]).partition(": ")
    if base_stays(report["training"]):
        sentence, rest = BASE_STAYS, _base_stays(report["training"])
    metrics = []
    for key, name in METRICS.items():
        if key in base and key in student:
            change = student[key] - base[key]
            is_tested = key == "ndcg@10"  # the metric of the significance test
            metrics.append(
                {
                    "name": name,
                    "base": base[key],
                    "student": student[key],
                    "difference": change,
                    "tone": "win" if change > 0 else "loss" if change < 0 else "",
                    "interval": f"{low:+.4f} to {high:+.4f}" if is_tested else "",
                    "p": _p(difference["p"]) if is_tested else "",
                }
            )
    return {
        "headline": sentence,
        "verdict": rest,
        "metrics": metrics,
        "tone": tone,
        "interval": charts.interval_plot(low, difference["mean"], high),
        "interval_text": f"95 % interval {low:+.3f} to {high:+.3f}",
        "judged_on": f"Judged on {student['queries']:,} queries over {student['passages']:,} passages. "
        "The interval is a bootstrap over queries, p a paired t-test.",
    }


def _base_stays(training: Mapping[str, Any]) -> str:
    """What follows the headline where no step was better than the base."""
    rest = chosen_in_words(training).partition(": ")[2]
    return rest[:1].upper() + rest[1:]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
