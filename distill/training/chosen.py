"""Which weights a training exports, in words: those of the step that was best on the dev lists, or the base's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BASE = 0  # the `best_step` of a training in which no step was better than the base
BASE_STAYS = "Training did not help, the base stays"


def base_stays(record: Mapping[str, Any]) -> bool:
    """Whether the model of a finished training is its base; `record` is what `train` returns."""
    return record.get("best_step") == BASE


def chosen_in_words(record: Mapping[str, Any]) -> str:
    """One sentence about the weights that were exported.

    Args:
        record: as `train` returns it; records of older versions lack the figures.
    """
    base = record.get("base_dev")
    if not base:  # no dev lists
        return f"The model is that of step {record['best_step']:,}, the last; there were no dev lists to choose by."
    before = f"{base['dev_ndcg@10']:.4f}"
    if base_stays(record):
        return (
            f"{BASE_STAYS}: no evaluation in {record['steps']:,} steps was better than the base's nDCG@10 of {before} "
            "on the dev lists, so the model is the base, unchanged."
        )
    after = f" {record['best_dev']:.4f}," if record.get("best_dev") is not None else ""
    return (
        f"The model is that of step {record['best_step']:,}, the best on the dev lists: nDCG@10{after} where the base "
        f"has {before}."
    )
