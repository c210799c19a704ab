"""Neighbours against the whole matrix of similarities, and the texts that come with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.schemas import SOURCES
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.workers.worker import Task
from generation.sources.neighbours import is_copy, nearest
from generation.sources.settings import NeighbourSettings
from generation.sources.stage import SourceWorker
from tests.generation.sources.tables import topics, write_chosen, write_passages, write_vectors

LIMITS = NeighbourSettings(min_similarity=0.3, max_similarity=0.9)


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
@pytest.mark.parametrize("count", [1, 4])
def test_neighbours_equal_those_of_the_whole_matrix_whatever_the_blocks(block: int, count: int) -> None:
    vectors, _ = topics([60, 30, 7, 3], noise=0.12)
    generator = np.random.default_rng(2)
    vectors *= generator.uniform(0.5, 2, size=(100, 1)).astype(np.float32)
    eligible = generator.random(100) < 0.8
    asked = generator.choice(100, size=40, replace=False)

    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similar = unit[asked] @ unit.T
    allowed = (similar >= 0.3) & (similar <= 0.9) & eligible & (np.arange(100) != asked[:, None])
    expected = []
    for row in range(40):
        ranked = sorted(np.flatnonzero(allowed[row]), key=lambda one: -similar[row, one])[:count]
        expected.append([*ranked, *[-1] * (count - len(ranked))])

    blocks = [
        (np.arange(first, min(first + block, 100)), vectors[first : first + block]) for first in range(0, 100, block)
    ]
    assert nearest(vectors[asked], asked, blocks, eligible, LIMITS, count).tolist() == expected


def test_copies_are_told_by_their_words() -> None:
    text = "The harbour of Arlewick freezes over in a hard winter."
    assert is_copy(text, text.upper())
    assert is_copy(text, f"{text} The boats stay ashore until March, and the nets are mended.")
    assert not is_copy(text, "The harbour town of Arlewick is known for salted herring.")


def test_a_source_comes_with_its_nearest_passage_that_is_no_copy_and_may_be_a_source(tmp_path: Path) -> None:
    """Five passages on a line: 0 and 1 are copies in words, 2 is judged, 3 is what remains; 4 is far from all."""
    angles = np.radians([0, 20, 25, 35, 150])
    vectors = np.zeros((5, 16), np.float32)
    vectors[:, 0], vectors[:, 1] = np.cos(angles), np.sin(angles)
    texts = ["a b c d e f", "a b c d e g", "h i", "j k l", "m n"]
    workdir = str(tmp_path)
    write_passages(workdir, 5, judged=(2,), texts=texts)
    write_vectors(workdir, vectors)
    chosen = write_chosen(workdir, [3, 0, 4])
    near = NeighbourSettings(min_similarity=0.5, max_similarity=0.99)
    worker = SourceWorker(Storage(workdir), "passages", "embeddings/base/passages", near)
    output = worker.process(Task(Shard("00000", 3), 0, 3, chosen.read()))
    assert output.rows.schema == SOURCES.schema
    rows = output.rows.to_pylist()
    assert [row["passage_id"] for row in rows] == ["p3", "p0", "p4"]
    assert [row["neighbour_id"] for row in rows] == ["p1", "p3", None]
    assert (rows[1]["title"], rows[1]["text"]) == ("Title 0", texts[0])
    assert (rows[1]["neighbour_title"], rows[1]["neighbour_text"]) == ("Title 3", texts[3])
    assert output.stats == {"with_neighbour": 2}


def test_passages_that_have_no_vector_are_nobodys_neighbour_and_shift_no_row(tmp_path: Path) -> None:
    vectors, labels = topics([10, 10], noise=0.1)
    workdir = str(tmp_path)
    write_passages(workdir, 20)
    write_vectors(workdir, vectors, missing=(0, 7, 19))
    chosen = write_chosen(workdir, list(range(20)))
    near = NeighbourSettings(min_similarity=0.3, max_similarity=1.0)
    rows = SourceWorker(Storage(workdir), "passages", "embeddings/base/passages", near).process(
        Task(Shard("00000", 20), 0, 20, chosen.read())
    ).rows.to_pylist()  # fmt: skip
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    similar[:, [0, 7, 19]] = -1
    for row in range(20):
        expected = None if row in (0, 7, 19) else f"p{similar[row].argmax()}"
        assert rows[row]["neighbour_id"] == expected
        assert expected is None or labels[similar[row].argmax()] == labels[row]


def test_without_types_over_two_passages_texts_alone_are_brought_together(tmp_path: Path) -> None:
    write_passages(str(tmp_path), 6)
    chosen = write_chosen(str(tmp_path), [5, 2])
    worker = SourceWorker(Storage(str(tmp_path)), "passages", None, None)
    rows = worker.process(Task(Shard("00000", 2), 0, 2, chosen.read())).rows.to_pylist()
    assert [(row["passage_id"], row["text"], row["neighbour_id"]) for row in rows] == [
        ("p5", "words5 of5 passage5", None), ("p2", "words2 of2 passage2", None),
    ]  # fmt: skip
