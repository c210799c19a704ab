"""IVF and HNSW against exact search: recall, rows and scores, an index in parts, and settings without effect."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from cluster.schemas import PASSAGE_VECTORS
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from distill.retrieval import approximate
from distill.retrieval.approximate import DATA, FILE, ApproximateIndex, build
from distill.retrieval.search import Block, Hits, search
from distill.settings.retrieval import RetrieverSettings

N, D = 3_000, 32


def clustered(seed: int, n: int) -> np.ndarray:
    """(n, D) float32 unit vectors around sixty centres, which are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(60, D))
    generator = np.random.default_rng(seed)
    vectors = centres[generator.integers(0, 60, size=n)] + 0.5 * generator.normal(size=(n, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


VECTORS, QUERIES = clustered(1, N), clustered(2, 50)


def write(storage: Storage, vectors: np.ndarray, files: int = 5) -> Table:
    """PASSAGE_VECTORS of a run, in some files."""
    parts = np.array_split(vectors, files)
    plan = Plan.new(PASSAGE_VECTORS, [Shard(f"{number:05d}", len(part)) for number, part in enumerate(parts)], {})
    storage.put("vectors/plan.json", plan.to_bytes())
    for shard, part in zip(plan.shards, parts, strict=True):
        ids = [f"{shard.name}-{number}" for number in range(len(part))]
        rows = pa.table({"id": ids, "vector": list(part)}, schema=PASSAGE_VECTORS.schema)
        data = put_rows(storage, "vectors", shard.name, rows)
        publish(storage, "vectors", plan.id, Commit(shard.name, data, len(part), len(part), {}, 0, 0, 0.0, "t", "t"))
    return Table.open(storage, "vectors")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Table:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return write(Storage(str(tmp_path / "run")), VECTORS)


def exact(k: int) -> Hits:
    return search(QUERIES, [Block.of(np.arange(N), VECTORS)], k)


def recall(hits: Hits, k: int) -> float:
    both = [len(set(one) & set(other)) for one, other in zip(hits.rows.tolist(), exact(k).rows.tolist(), strict=True)]
    return sum(both) / (k * len(QUERIES))


def test_ivf_that_looks_into_every_list_equals_exact_search(table: Table):
    settings = RetrieverSettings(kind="dense", index="ivf", lists=40, nprobe=40)
    hits = ApproximateIndex.shared(table, settings).search(QUERIES, 20)
    np.testing.assert_array_equal(hits.rows, exact(20).rows)
    np.testing.assert_array_equal(hits.scores, exact(20).scores)


def test_more_lists_find_more_of_the_nearest_passages(table: Table):
    found = [
        recall(
            ApproximateIndex.shared(
                table, RetrieverSettings(kind="dense", index="ivf", lists=40, nprobe=nprobe)
            ).search(QUERIES, 20),
            20,
        )
        for nprobe in (1, 4, 40)
    ]
    assert found[0] < found[1] < found[2] == 1.0


def test_hnsw_finds_nine_of_ten_of_the_nearest_passages_with_their_exact_scores(table: Table):
    hits = ApproximateIndex.shared(table, RetrieverSettings(kind="dense", index="hnsw")).search(QUERIES, 20)
    assert recall(hits, 20) > 0.9
    products = np.take_along_axis(QUERIES @ VECTORS.T, hits.rows, 1)
    np.testing.assert_allclose(hits.scores, products, atol=1e-6)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_query_has_the_same_hits_alone_and_beside_others(table: Table, kind: str):
    settings = RetrieverSettings(kind="dense", index=kind)
    index = ApproximateIndex.shared(table, settings)
    hits = index.search(QUERIES, 20)
    for size in (1, 19, 31):
        parts = [index.search(QUERIES[start : start + size], 20) for start in range(0, 50, size)]
        np.testing.assert_array_equal(np.concatenate([part.rows for part in parts]), hits.rows)
        np.testing.assert_array_equal(np.concatenate([part.scores for part in parts]), hits.scores)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_a_machine_builds_an_index_once_and_every_process_its_own_if_no_file_can_be_written(
    table: Table, kind: str, monkeypatch: pytest.MonkeyPatch
):
    settings = RetrieverSettings(kind="dense", index=kind)
    builds = []

    def counted(*arguments):
        builds.append(1)
        return build(*arguments)

    monkeypatch.setattr(approximate, "build", counted)
    rows = [ApproximateIndex.shared(table, settings).search(QUERIES, 9).rows for _ in range(3)]
    assert len(builds) == 1
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    rows += [ApproximateIndex.shared(table, settings).search(QUERIES, 9).rows for _ in range(2)]
    assert len(builds) == 3
    for later in rows[1:]:
        np.testing.assert_array_equal(later, rows[0])


def test_an_ivf_index_in_parts_finds_what_the_whole_one_finds(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    settings = RetrieverSettings(kind="dense", index="ivf", nprobe=6)
    whole = ApproximateIndex(build(table, settings, None), settings).search(QUERIES, 20)
    monkeypatch.setattr(approximate, "PART_BYTES", 700 * D * 4)
    folder = tmp_path / "index"
    folder.mkdir()
    build(table, settings, folder)
    assert sorted(path.name for path in folder.iterdir()) == sorted([FILE, DATA])
    hits = ApproximateIndex.load(folder, settings).search(QUERIES, 20)
    np.testing.assert_array_equal(hits.rows, whole.rows)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_no_vectors_give_no_hits_and_few_vectors_give_all_of_them(tmp_path: Path, kind: str):
    settings = RetrieverSettings(kind="dense", index=kind)
    empty = write(Storage(str(tmp_path / "empty")), VECTORS[:0], files=1)
    assert (ApproximateIndex.shared(empty, settings).search(QUERIES, 4).rows == -1).all()
    few = write(Storage(str(tmp_path / "few")), VECTORS[:3], files=2)
    hits = ApproximateIndex.shared(few, settings).search(QUERIES[:2], 4)
    assert [sorted(row) for row in hits.rows.tolist()] == [[-1, 0, 1, 2]] * 2
    assert np.isneginf(hits.scores[:, 3]).all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "bm25", "index": "ivf"}, "index ivf is for a dense retriever"),
        ({"kind": "dense", "nprobe": 8}, "`nprobe` needs index: ivf"),
        ({"kind": "dense", "index": "ivf", "ef_search": 8}, "`ef_search` needs index: hnsw"),
    ],
)
def test_settings_without_effect_are_refused(fields: dict, message: str):
    with pytest.raises(ValidationError, match=message):
        RetrieverSettings(**fields)


def test_only_the_settings_of_the_chosen_index_change_the_candidates():
    assert RetrieverSettings(kind="dense").identity() == "dense"
    named = RetrieverSettings(kind="dense", index="hnsw", m=8).identity()
    assert named == {"kind": "dense", "index": "hnsw", "m": 8, "ef_search": 512}
