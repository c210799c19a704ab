"""BM25: bm25s, and our own index of the same tokens, which searches without what cannot matter.

    python -m benchmarks.bm25 [--sizes 10000,100000,1000000] [--queries 200] [--depth 100] [--turns 3]

Passages and queries are those of `benchmarks.scale`: words from a Zipf distribution with topics, four to seven words of
a passage as its query. Both indexes are built into a folder, each in a process of its own, whose own memory (without
mapped files) is printed at its peak. Both are mapped and searched on one thread, in turns; milliseconds a query are
those of the median turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.machine import processor
from benchmarks.zipf_corpus import ZipfCorpus
from distill.retrieval.bm25 import Bm25Index
from distill.retrieval.bm25_build import K1, B
from distill.retrieval.tokenizers import TextSettings


def texts(corpus: ZipfCorpus) -> Iterator[list[str]]:
    """The passages, in batches."""
    for block in corpus.blocks():
        yield [" ".join(corpus.words[ranks]) for ranks in block]


def build_theirs(texts: Iterable[Sequence[str]], folder: Path) -> None:
    """As bm25s builds and saves an index, with the tokenizer of ours."""
    import bm25s
    from bm25s.tokenization import Tokenized

    tokenizer = TextSettings().tokenizer()
    ids: list[list[int]] = []
    for batch in texts:
        ids += tokenizer.tokenize(
            list(batch), update_vocab=True, return_as="ids", allow_empty=False, show_progress=False
        )
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index(Tokenized(ids=ids, vocab=tokenizer.get_vocab_dict()), show_progress=False)
    index.save(folder, show_progress=False)


def build(ours: bool, passages: int, folder: Path, answer: Connection) -> None:
    """Builds one of the indexes, and sends seconds and MiB."""
    peak, status = 0, Path("/proc/self/status")

    def watch() -> None:
        nonlocal peak
        while True:
            line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
            peak = max(peak, int(line.split()[1]) // 1024)
            time.sleep(0.1)

    corpus = ZipfCorpus(passages)
    threading.Thread(target=watch, daemon=True).start()
    begun = time.monotonic()
    if ours:
        Bm25Index(texts(corpus), folder=folder)
    else:
        build_theirs(texts(corpus), folder)
    answer.send((time.monotonic() - begun, peak))


def built(ours: bool, passages: int, folder: Path) -> tuple[float, int]:
    """Seconds and MiB of a process that builds one of the indexes."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=build, args=(ours, passages, folder, sender))
    process.start()
    sender.close()
    found = receiver.recv()
    process.join()
    return found


def measure(passages: int, count: int, depth: int, turns: int, root: Path) -> str:
    """The row of a size."""
    import bm25s

    folders = {name: root / f"{name}-{passages}" for name in ("theirs", "ours")}
    costs = {}
    for name, folder in folders.items():
        folder.mkdir()
        costs[name] = built(name == "ours", passages, folder)
    index, other = Bm25Index.load(folders["ours"]), bm25s.BM25.load(folders["theirs"], mmap=True)
    corpus, generator = ZipfCorpus(passages), np.random.default_rng(1)
    queries = [corpus.query(ranks, generator) for ranks in next(corpus.blocks())[:count]]
    tokens = index.token_ids(queries)

    def theirs() -> np.ndarray:
        found = other.retrieve(tokens, k=depth, n_threads=0, show_progress=False, backend_selection="numpy")
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
    cells = [f"{passages:,}"]
    cells += [f"{costs[name][place]:,.0f}" for place in (0, 1) for name in contestants]
    cells += [f"{old:.2f}", f"{new:.2f}", f"{old / new:.1f}×", "yes" if same else "NO"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="passages")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    print(f"{processor()}; {options.queries} queries, depth {options.depth}, {options.turns} turns\n")
    columns = ["passages", "bm25s builds, s", "ours", "its memory, MiB", "ours", "it searches, ms a query", "ours"]
    print(f"| {' | '.join([*columns, 'ratio', 'same scores'])} |\n|{'---|' * (len(columns) + 2)}")
    with tempfile.TemporaryDirectory() as folder:
        for size in map(int, options.sizes.split(",")):
            print(measure(size, options.queries, options.depth, options.turns, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
