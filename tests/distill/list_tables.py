"""Passages and lists of the hundred-passage collection as tables, as the stages before training would leave them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cluster.schemas import LISTS, PASSAGES
from tests.corpus import ASPECTS, PLACES, QUERIES
from tests.tables import write_table


def write_run(workdir: Path, length: int = 8, dev: bool = True) -> None:
    """One list per passage: the passage first, the other passages of its place next, then others. A few are short."""
    random = np.random.default_rng(3)
    passages, lists = [], []
    for number, place in enumerate(PLACES):
        for aspect, template in enumerate(ASPECTS):
            row = len(passages)
            passages.append(
                {"passage_id": f"p{row}", "title": place[0], "text": template.format(*place), "is_source": True}
            )
            near = [number * len(ASPECTS) + other for other in range(len(ASPECTS)) if other != aspect]
            far = random.choice([other for other in range(100) if other // 5 != number], length - 4, replace=False)
            size = 3 if row % 15 in (4, 10) else length  # some lists are shorter than the others, of both splits
            lists.append({
                "query_id": f"q{row}", "query_type": "search", "text": QUERIES[aspect].format(*place),
                "passage_rows": [row, *near, *map(int, far[1:])][:size],
                "scores": ([1.0] + [0.7] * 4 + [0.05] * (length - 5))[:size],
                "split": "dev" if dev and row % 10 == 0 else "train",
                "left_out_row": int(far[0]) if row % 20 == 0 else None,
            })  # fmt: skip
    write_table(str(workdir), PASSAGES, "passages", passages)
    write_table(str(workdir), LISTS, "lists", lists)
