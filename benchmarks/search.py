"""Exact and IVF search over a corpus of vectors that is larger than memory.

    python -m benchmarks.search --passages 200000 [--dimensions 384] [--storage SQ8] [--folder FOLDER]

It writes clustered random unit vectors as float16 files into a temporary folder, and searches them for the best 100
passages of each query. The exact search is that of a run (`distill/retrieval/search.py`): it reads one file after the
other, converts it to float32, and keeps the result so far. The IVF index is trained on a sample and filled file by
file. Its vectors are quantised to one byte a dimension (SQ8) or four bits (SQ4), so ten million of 384 dimensions take
3.9 or 2 GiB. An index of a run holds whole vectors, mapped from a file (`distill/retrieval/approximate.py`).

Ten million passages of 384 dimensions take 7.7 GB of disk and, with SQ8, 5 to 9 GiB of memory: lists grow in steps.
The vectors take two minutes, each reading of them two to three, and the lists twenty or more, in proportion to 200,000
on two cores. `--threads` says how many cores it uses.
"""

from __future__ import annotations

import argparse
import math
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np

from distill.retrieval.approximate import TRAINING_ROWS
from distill.retrieval.search import Block, search

FILE_ROWS = 100_000
SPREAD = 1.3  # of a cluster's vectors around their centre, in units of the centres' own spread


class Vectors:
    """Clustered unit vectors in float16 files; a file's content depends on its number and the seed alone."""

    def __init__(self, folder: Path, passages: int, dimensions: int, cluster: int, seed: int) -> None:
        self.folder, self.passages, self.dimensions, self.seed = folder, passages, dimensions, seed
        clusters = min(50_000, max(16, passages // cluster))  # whose centres stay in memory
        self._centres = np.random.default_rng(seed).normal(size=(clusters, dimensions)).astype(np.float32)

    def made(self, number: int, rows: int) -> np.ndarray:
        """(rows, dimensions) float32 vectors of one file."""
        generator = np.random.default_rng([self.seed, number])
        vectors = generator.standard_normal((rows, self.dimensions), dtype=np.float32) * np.float32(SPREAD)
        vectors += self._centres[generator.integers(0, len(self._centres), size=rows)]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def write(self) -> None:
        """Writes all files."""
        for number, start in enumerate(range(0, self.passages, FILE_ROWS)):
            rows = min(FILE_ROWS, self.passages - start)
            np.save(self.folder / f"{number:05d}.npy", self.made(number, rows).astype(np.float16))

    def files(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first row of each file and its (n, dimensions) float32 vectors."""
        start = 0
        for path in sorted(self.folder.glob("*.npy")):
            vectors = np.load(path).astype(np.float32)
            yield start, vectors
            start += len(vectors)


def gib() -> float:
    """Most memory that this process has held so far, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def report(what: str, seconds: float, rows: int | None, more: str = "") -> None:
    """One line of the result; `rows` are those that were all read or written."""
    rate = f"{rows / seconds:,.0f}" if rows else ""
    print(f"| {what} | {seconds:,.1f} s | {rate} | {gib():.2f} GiB | {more} |", flush=True)


def exact_search(vectors: Vectors, queries: np.ndarray, depth: int) -> np.ndarray:
    """(Q, depth) rows of the best passages."""
    blocks = (Block.of(np.arange(start, start + len(part)), part) for start, part in vectors.files())
    return search(queries, blocks, depth).rows


def trained_index(vectors: Vectors, lists: int, storage: str) -> faiss.IndexIVF:
    """An empty IVF index; its centroids and the ranges of its quantiser come from rows at equal distances."""
    step = max(1, vectors.passages // (TRAINING_ROWS * lists))
    sample = np.concatenate([part[-start % step :: step] for start, part in vectors.files()])
    index = faiss.index_factory(vectors.dimensions, f"IVF{lists},{storage}", faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = 4 * TRAINING_ROWS
    index.train(sample)
    return index


def run(options: argparse.Namespace, folder: Path) -> None:
    """Writes the vectors, and prints one line for each step."""
    vectors = Vectors(folder, options.passages, options.dimensions, options.cluster, options.seed)
    lists = options.lists or round(2 * math.sqrt(options.passages))
    queries = vectors.made(2**31, options.queries)
    print("| step | time | rows/s | peak memory | |\n|---|---|---|---|---|")

    start = time.monotonic()
    vectors.write()
    report("vectors written", time.monotonic() - start, options.passages)

    start = time.monotonic()
    exact = exact_search(vectors, queries, options.depth)
    seconds = time.monotonic() - start
    report("exact search", seconds, options.passages, f"{options.queries / seconds:,.2f} queries/s")

    start = time.monotonic()
    index = trained_index(vectors, lists, options.storage)
    report(
        f"IVF{lists},{options.storage} trained", time.monotonic() - start, min(options.passages, TRAINING_ROWS * lists)
    )
    start = time.monotonic()
    for first, part in vectors.files():
        index.add_with_ids(part, np.arange(first, first + len(part)))
    report("IVF filled", time.monotonic() - start, options.passages)

    for nprobe in options.nprobe:
        index.nprobe = nprobe
        start = time.monotonic()
        found = index.search(queries, options.depth)[1]
        seconds = time.monotonic() - start
        both = sum(len(np.intersect1d(one, other)) for one, other in zip(exact, found, strict=True))
        recall = both / exact.size
        words = f"{options.queries / seconds:,.0f} queries/s, recall@{options.depth} {recall:.3f}"
        report(f"IVF search, nprobe {nprobe}", seconds, None, words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=10_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--cluster", type=int, default=100, help="vectors around a centre; recall falls with fewer")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--depth", type=int, default=100)
    parser.add_argument("--lists", type=int, help="default: twice the square root of the passages, as in a run")
    parser.add_argument("--nprobe", type=int, nargs="+", default=[8, 16, 32, 64, 128])
    parser.add_argument("--storage", default="SQ8", help="how IVF keeps vectors: SQ8, SQ4, SQfp16, PQ48, Flat, …")
    parser.add_argument("--threads", type=int, help="default: all cores")
    parser.add_argument("--folder", type=Path, help="where the temporary folder is made; default: TMPDIR")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.passages < options.depth:
        parser.error(f"--passages {options.passages} is less than --depth {options.depth}")
    if options.threads:
        faiss.omp_set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        needed = options.passages * options.dimensions * 2
        free = shutil.disk_usage(folder).free
        if needed > 0.9 * free:
            parser.error(
                f"the vectors take {needed / 1e9:.1f} GB and {folder} has {free / 1e9:.1f} GB left; name another "
                "place with --folder, or fewer with --passages"
            )
        run(options, Path(folder))


if __name__ == "__main__":
    main()
