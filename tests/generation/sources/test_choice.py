"""Each way of choosing passages, on topics that are known; no way takes a judged one."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.tables.plan import Shard
from cluster.tables.storage import Storage
from cluster.workers.worker import Output, Task
from generation.passages import sample
from generation.sources.choice import ChoiceWorker
from generation.sources.clusters import assign, default_clusters, train
from generation.sources.ids import Listed
from generation.sources.settings import SourceSettings
from tests.generation.sources.tables import topics, write_passages, write_vectors

SIZES = [300, 60, 8, 4]
JUDGED = tuple(range(0, 372, 3))


@pytest.fixture
def workdir(tmp_path: Path) -> str:
    return str(tmp_path / "run")


def choice(workdir: str, most: int = 1000, seed: int = 0, listed: list[Listed] | None = None, **settings) -> Output:
    storage = Storage(workdir)
    paths = [f"embeddings/base/{side}" for side in ("passages", "query_log")]
    vectors, log = (path if storage.exists(f"{path}/plan.json") else None for path in paths)
    chosen = SourceSettings(**settings)
    worker = ChoiceWorker(storage, "passages", vectors, log, chosen, most, seed, listed)
    return worker.process(Task(Shard("00000", 1, 0), 0, 1, None))


def rows_of(output: Output) -> list[int]:
    rows = output.rows.to_pylist()
    assert [row["passage_id"] for row in rows] == [f"p{row['row']}" for row in rows]
    assert len({row["row"] for row in rows}) == len(rows)
    return [row["row"] for row in rows]


def test_every_passage_is_chosen_or_counted(workdir: str) -> None:
    write_passages(workdir, 50)
    output = choice(workdir, most=7)
    assert (output.rows.num_rows, output.drops) == (7, {"not_chosen": 43})


def test_a_random_choice_is_the_sample_that_simple_recipes_take(workdir: str) -> None:
    write_passages(workdir, 200, judged=(3, 4, 5))
    eligible = ~np.isin(np.arange(200), (3, 4, 5))
    for seed in (0, 1):
        assert sorted(rows_of(choice(workdir, 30, seed))) == np.flatnonzero(sample(eligible, 30, seed)).tolist()
    assert len(rows_of(choice(workdir, share=0.1))) == 20  # of 197
    assert len(rows_of(choice(workdir, 12, share=0.1))) == 12


def test_the_first_of_a_random_choice_are_no_corner_of_the_corpus(workdir: str) -> None:
    write_passages(workdir, 1000)
    first = rows_of(choice(workdir, 500))[:50]
    assert 350 < np.mean(first) < 650


def test_clusters_cover_small_topics_that_a_random_sample_hardly_meets(workdir: str) -> None:
    vectors, labels = topics(SIZES)
    write_passages(workdir, len(labels))
    write_vectors(workdir, vectors)
    output = choice(workdir, 32, by="clusters", clusters=8)
    chosen, clusters = rows_of(output), output.rows["cluster"].to_numpy()
    assert len({(cluster, labels[row]) for cluster, row in zip(clusters, chosen, strict=True)}) == 8, (
        "of one topic each"
    )
    of_topics = np.bincount(labels[chosen])
    assert of_topics[3] == 4, "the whole topic of four"
    assert of_topics[2] >= 4
    for count in (8, 16):  # a budget that pays for fewer
        assert np.bincount(clusters[:count]).tolist() == [count // 8] * 8
    random = np.bincount(labels[rows_of(choice(workdir, 32))], minlength=4)
    assert random[0] > 20
    assert random[3] <= 2
    assert rows_of(choice(workdir, 32, by="clusters", clusters=8)) == chosen


def test_judged_passages_and_those_without_a_vector_are_never_chosen(workdir: str) -> None:
    vectors, labels = topics(SIZES)
    missing = (1, 4, 100)
    write_passages(workdir, len(labels), JUDGED)
    write_vectors(workdir, vectors, missing=missing)
    log, _ = topics([3, 3])
    write_vectors(workdir, log, "query_log")
    listed = [Listed(f"p{row}", row + 1) for row in range(len(labels))]
    without = set(range(len(labels))) - set(JUDGED)
    assert set(rows_of(choice(workdir, by="clusters", clusters=8))) == without - set(missing)
    assert set(rows_of(choice(workdir, by="query_log", clusters=4))) == without - set(missing)
    assert set(rows_of(choice(workdir))) == without
    assert set(rows_of(choice(workdir, listed=listed, by="ids", file="ids.txt"))) == without
    clusters = choice(workdir, by="clusters", clusters=8).rows
    named = dict(zip(clusters["row"].to_pylist(), clusters["cluster"].to_pylist(), strict=True))
    pairs = {(cluster, labels[row]) for row, cluster in named.items()}
    assert len(pairs) == 8, "a vector belongs to its own passage although others have none"


def test_topics_that_users_ask_about_get_more_and_none_starves(workdir: str) -> None:
    vectors, labels = topics([200, 200, 200])
    write_passages(workdir, 600)
    write_vectors(workdir, vectors)
    asked, asked_labels = topics([80, 20], seed=5)
    write_vectors(workdir, asked, "query_log")
    assert np.bincount(asked_labels).tolist() == [80, 20]
    for floor in (0.0, 0.3, 1.0):
        output = choice(workdir, 100, by="query_log", clusters=6, floor=floor)
        chosen = labels[rows_of(output)]
        everything = choice(workdir, by="query_log", clusters=6)
        topic_of = dict(zip(everything.rows["cluster"].to_pylist(), labels[rows_of(everything)], strict=True))
        clusters = np.bincount(list(topic_of.values()), minlength=3)
        assert clusters.sum() == 6
        assert clusters.min() > 0
        expected = 100 * ((1 - floor) * np.array([0.8, 0.2, 0]) + floor * clusters / 6)
        np.testing.assert_allclose(
            np.bincount(chosen, minlength=3), expected, atol=3
        )  # one of each cluster by rounding


def test_ids_are_taken_in_the_order_of_their_file_and_unknown_ones_are_named(workdir: str, caplog) -> None:
    write_passages(workdir, 40, judged=(5,))
    listed = [Listed(f"p{row}", number) for number, row in enumerate([9, 5, 2, *range(20, 39)], 1)]
    listed.insert(2, Listed("other", 17))
    with caplog.at_level(logging.WARNING):
        output = choice(workdir, listed=listed, by="ids", file="ids.txt")
    assert rows_of(output)[:3] == [9, 2, 20]
    assert output.stats == {"eligible": 39, "unknown": 1, "excluded": 1}
    assert "1 ids are no passages: 'other' (line 17)" in caplog.text
    assert "'p5' (line 2)" in caplog.text
    assert rows_of(choice(workdir, 2, listed=listed, by="ids", file="ids.txt")) == [9, 2]
    with pytest.raises(
        InputError, match=r"2 of the 4 ids of ids.txt are no passages .* 'x' \(line 8\), 'y' \(line 9\)"
    ):
        choice(workdir, listed=[*listed[:2], Listed("x", 8), Listed("y", 9)], by="ids", file="ids.txt")


def test_nothing_to_choose_is_bad_input(workdir: str) -> None:
    write_passages(workdir, 4, judged=(0, 1, 2, 3))
    with pytest.raises(InputError, match="of 4 passages none is chosen"):
        choice(workdir)


# ---- clusters


def test_vectors_belong_to_the_nearest_centroid_whatever_the_cut_into_files(workdir: str) -> None:
    vectors, _ = topics(SIZES, noise=0.3)
    table = write_vectors(workdir, 3 * vectors)  # lengths do not matter
    centroids = train(table, 7, seed=0)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    assert assign(table, centroids).tolist() == (vectors @ centroids.T).argmax(axis=1).tolist()


def test_there_are_never_more_clusters_than_vectors(workdir: str) -> None:
    table = write_vectors(workdir, topics([2, 1])[0])
    assert len(train(table, 50, seed=0)) == 3
    assert [default_clusters(count) for count in (1, 100, 5000, 10_000_000)] == [1, 10, 71, 1024]
