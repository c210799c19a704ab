"""Approximate search beside the exact one: an IVF or HNSW index of FAISS over the vectors of one encoder.

The workers of a machine share one index, as they share that of BM25: the first worker builds it from the files of the
vectors table, one after the other, and all workers map it into memory. The vectors in it are whole, so the scores are
exact. What is approximate is which passages are looked at.

IVF: Sivic and Zisserman, "Video Google", ICCV 2003; Jégou et al., "Product Quantization for Nearest Neighbor Search",
PAMI 2011. HNSW: Malkov and Yashunin, arXiv 1603.09320.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.machines.shared_folder import shared_folder
from cluster.tables.table import Table
from cluster.tables.vectors import vectors_of
from distill.retrieval.search import PAIRS, SPARE, Hits, inner_products
from distill.settings.retrieval import RetrieverSettings

if TYPE_CHECKING:
    import faiss

FILE, PART, DATA = "index.faiss", "part", "vectors.ivf"
PART_BYTES = 1 << 30  # of vectors that are in memory at once while an IVF index is built
TRAINING_ROWS = 48  # vectors for each list, of which k-means makes the centroids; FAISS asks for at least 39
EF_CONSTRUCTION = 80  # candidates for the neighbours of a passage while an HNSW index is built


class ApproximateIndex:
    """IVF or HNSW index over P vectors; a hit's row is the position of its vector.

    Args:
        index: the index; None if there are no vectors.
        settings: the retriever, whose `index` is ivf or hnsw.
    """

    def __init__(self, index: Any, settings: RetrieverSettings) -> None:
        self._index = index  # typed Any: the two kinds have different attributes
        self._settings = settings
        if index is not None and settings.index == "ivf":
            self._index.nprobe = settings.nprobe

    @classmethod
    def shared(cls, vectors: Table, settings: RetrieverSettings) -> ApproximateIndex:
        """Returns the index that all processes of this machine share; the first process that asks for it builds it.

        Where temporary files cannot be written, every process builds its own index in its memory.

        Args:
            vectors: PASSAGE_VECTORS of one encoder.
            settings: the retriever.

        Raises:
            InputError: the folder for this user's temporary files is not private to the user.
        """
        if not vectors.num_rows:
            return cls(None, settings)
        shape = settings.lists or 0 if settings.index == "ivf" else settings.m
        name = f"{settings.index}-{vectors.fingerprint}-{shape}"

        def write(folder: Path) -> None:
            build(vectors, settings, folder)

        try:
            return cls.load(shared_folder(name, write), settings)
        except OSError:
            return cls(build(vectors, settings, None), settings)

    @classmethod
    def load(cls, folder: Path, settings: RetrieverSettings) -> ApproximateIndex:
        """Loads a saved index. It is mapped into memory, so pages are read when a search needs them."""
        import faiss

        if settings.index == "hnsw":
            flags = faiss.IO_FLAG_MMAP_IFC
        elif (folder / DATA).exists():  # its vectors are mapped anyway, by the path that the index holds
            flags = faiss.IO_FLAG_READ_ONLY
        else:
            flags = faiss.IO_FLAG_MMAP
        return cls(faiss.read_index(str(folder / FILE), flags), settings)

    def search(self, queries: np.ndarray, k: int) -> Hits:
        """Finds about the k best passages of each query, as (Q, k) hits whose scores are exact.

        Args:
            queries: `(Q, d) float32` vectors. A query's hits do not depend on the queries beside it.
            k: hits per query.
        """
        hits = Hits.empty(len(queries), k)
        if self._index is None:
            return hits
        if self._settings.index == "hnsw":
            self._index.hnsw.efSearch = max(self._settings.ef_search, k + SPARE)
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        size = max(1, PAIRS // (k + SPARE))
        for start in range(0, len(queries), size):
            part = queries[start : start + size]
            with _one_query_at_a_time():
                _, rows, vectors = self._index.search_and_reconstruct(part, k + SPARE)
            scores = inner_products(part[:, None], vectors)
            scores[rows < 0] = -np.inf
            order = np.lexsort((rows, -scores), axis=1)[:, :k]
            hits.rows[start : start + size] = np.take_along_axis(rows, order, 1)
            hits.scores[start : start + size] = np.take_along_axis(scores, order, 1)
        return hits


@contextlib.contextmanager
def _one_query_at_a_time() -> Iterator[None]:
    """FAISS compares queries with centroids one by one; as one matrix product, it would round by their number."""
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    faiss.cvar.distance_compute_blas_threshold = 1 << 30
    try:
        yield
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def number_of_lists(settings: RetrieverSettings, vectors: int) -> int:
    """Lists of an IVF index: as the recipe says, or twice the square root of the number of vectors."""
    return max(1, min(settings.lists or round(2 * math.sqrt(vectors)), vectors))


def build(vectors: Table, settings: RetrieverSettings, folder: Path | None) -> faiss.IndexIVF | faiss.IndexHNSW:
    """Builds an index from a table of vectors, file by file, and writes it into an empty folder.

    Memory holds a graph of HNSW whole, since any passage may become a neighbour of any other. Of IVF it holds the
    vectors that train the centroids, or `PART_BYTES` of vectors, unless there is no folder.
    """
    import faiss

    if settings.index == "ivf":
        return _build_ivf(vectors, number_of_lists(settings, vectors.num_rows), folder)
    index: faiss.IndexHNSWFlat | None = None
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # with more threads, every machine would build another graph
    try:
        for part in _parts(vectors):
            if index is None:
                index = faiss.IndexHNSWFlat(part.shape[1], settings.m, faiss.METRIC_INNER_PRODUCT)
                index.hnsw.efConstruction = EF_CONSTRUCTION
            index.add(part)
    finally:
        faiss.omp_set_num_threads(threads)
    assert index is not None, "there are vectors"
    if folder:
        _write(index, folder / FILE)
    return index


def _write(index: faiss.Index, path: Path) -> None:
    """Writes a file; FAISS's own error, such as of a full disk, becomes an OSError."""
    import faiss

    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from error


def _parts(vectors: Table) -> Iterator[np.ndarray]:
    """(n, d) float32 vectors of one file after the other."""
    for rows in vectors.batches(["vector"]):
        if len(rows):
            yield np.ascontiguousarray(vectors_of(rows.column("vector")))


def _build_ivf(vectors: Table, lists: int, folder: Path | None) -> faiss.IndexIVFFlat:

    index = _trained(_parts(vectors), vectors.num_rows, lists)
    names: list[str] = []
    added = 0

    def write_part() -> None:
        names.append(str((folder or Path()) / f"{PART}{len(names)}"))
        _write(index, Path(names[-1]))
        index.reset()

    for part in _parts(vectors):
        if folder and index.ntotal and (index.ntotal + len(part)) * part.shape[1] * 4 > PART_BYTES:
            write_part()
        index.add_with_ids(part, np.arange(added, added + len(part)))
        added += len(part)
    if names and folder:
        from faiss.contrib.ondisk import merge_ondisk

        write_part()
        merge_ondisk(index, names, str(folder / DATA))
        for name in names:
            Path(name).unlink()
    if folder:
        _write(index, folder / FILE)
    return index


def _trained(parts: Iterable[np.ndarray], vectors: int, lists: int) -> faiss.IndexIVFFlat:
    """An empty IVF index whose centroids come from rows at equal distances over all vectors."""
    import faiss

    step = max(1, vectors // (TRAINING_ROWS * lists))
    sample: list[np.ndarray] = []
    seen = 0
    for part in parts:
        sample.append(part[-seen % step :: step])
        seen += len(part)
    rows = np.concatenate(sample)
    quantizer = faiss.IndexFlatIP(rows.shape[1])
    index = faiss.IndexIVFFlat(quantizer, rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1  # FAISS warns of few rows, which a small corpus has
    index.cp.max_points_per_centroid = 4 * TRAINING_ROWS
    index.train(rows)
    return index
