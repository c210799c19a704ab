"""BM25 search: sums over whole columns, as bm25s retrieves, and ours, which skips what cannot matter; in turns.

    python -m benchmarks.bm25 [--sizes 10000,100000,1000000] [--queries 200] [--depth 100] [--turns 3]

Passages and queries are those of `benchmarks.scale`: words from a Zipf distribution with topics, four to seven words of
a passage as its query. Both search one index on one thread. Printed are milliseconds a query, of the median turn, and
whether both found the same scores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

from benchmarks.machine import processor
from benchmarks.zipf_corpus import ZipfCorpus
from distill.retrieval.bm25 import Bm25Index


def texts(corpus: ZipfCorpus) -> Iterator[list[str]]:
    """The passages, in batches."""
    for block in corpus.blocks():
        yield [" ".join(corpus.words[ranks]) for ranks in block]


def measure(passages: int, count: int, depth: int, turns: int) -> str:
    """The row of a size."""
    corpus = ZipfCorpus(passages)
    begun = time.monotonic()
    index = Bm25Index(texts(corpus))
    built = time.monotonic() - begun
    generator = np.random.default_rng(1)
    queries = [corpus.query(ranks, generator) for ranks in next(corpus.blocks())[:count]]
    tokens = [index._tokens(query) for query in queries]

    def theirs() -> np.ndarray:
        found = index._index.retrieve(tokens, k=depth, n_threads=0, show_progress=False, backend_selection="numpy")
        return np.sort(found.scores, axis=1)[:, ::-1]

    def ours() -> np.ndarray:
        return np.maximum(index.search(queries, depth).scores, 0)

    contestants: dict[str, Callable[[], np.ndarray]] = {"theirs": theirs, "ours": ours}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    scores = {name: search() for name, search in contestants.items()}  # both have read their pages now
    for turn in range(turns):
        for name, search in list(contestants.items())[:: (-1) ** turn]:
            begun = time.monotonic()
            search()
            seconds[name].append((time.monotonic() - begun) / count * 1e3)
    same = np.allclose(scores["theirs"], scores["ours"], rtol=1e-5)
    old, new = (median(seconds[name]) for name in contestants)
    return f"| {passages:,} | {built:.0f} | {old:.2f} | {new:.2f} | {old / new:.1f}× | {'yes' if same else 'NO'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="passages")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print(f"{processor()}; {options.queries} queries, depth {options.depth}, {options.turns} turns\n")
    print("| passages | index built, s | bm25s, ms a query | ours, ms a query | ratio | same scores |")
    print("|---|---|---|---|---|---|")
    for size in map(int, options.sizes.split(",")):
        print(measure(size, options.queries, options.depth, options.turns), flush=True)


if __name__ == "__main__":
    main()
