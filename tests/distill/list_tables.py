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
            is_dev = dev and row % 10 == 0
            listed, scores = [row, *near, *map(int, far[1:])][:size], ([1.0] + [0.7] * 4 + [0.05] * (length - 5))[:size]
            # beside the list the teachers scored others, not equally many: where it is short, some are as good as it
            others = [*near, *map(int, random.permutation(100)[: 12 + row % 7])]
            scored = {other: 0.7 if other in near else 0.04 * random.random() for other in others}
            scored |= dict(zip(listed, scores, strict=True))
            by_score = sorted(scored, key=lambda passage: -scored[passage]) if is_dev else []
            lists.append({
                "query_id": f"q{row}", "query_type": "search", "text": QUERIES[aspect].format(*place),
                "passage_rows": listed, "scores": scores, "split": "dev" if is_dev else "train",
                "dev_rows": by_score, "dev_scores": [scored[passage] for passage in by_score],
            })  # fmt: skip
    write_table(str(workdir), PASSAGES, "passages", passages)
    write_table(str(workdir), LISTS, "lists", lists)
