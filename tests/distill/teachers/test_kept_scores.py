"""Scores of pairs that outlive their table: what is looked up, what is not, and what a second run pays for."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from cluster.run import Run
from cluster.schemas import KEPT_SCORES, QUERIES
from cluster.settings import ClusterSettings
from cluster.tables.removal import is_removable
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.watch.progress import Progress
from distill.encoders.texts import passage_text
from distill.retrieval import candidates
from distill.settings.encoders import EncoderSettings
from distill.settings.retrieval import RetrievalSettings, RetrieverSettings
from distill.teachers import scores
from distill.teachers.kept_scores import KeptScores, files_of, folder_of, keep, keys_of, state_of
from distill.teachers.pairs import PairTeacher
from tests.distill.conftest import POOL
from tests.distill.run_tables import write_log, write_passages, write_queries, write_table
from tests.distill.teachers.score_server import ScoreServer, sent, settings, words_shared
from tests.loopback import serving

# --- looking up ---


def test_every_pair_is_found_and_no_other(tmp_path: Path):
    storage, dice = Storage(str(tmp_path)), np.random.default_rng(0)
    folder, known = folder_of({"model": "m"}), {}
    for number in range(5):
        keys = dice.integers(0, 2**64, size=700, dtype=np.uint64)
        keys[:20] = keys_of([("query", f"passage {one}") for one in range(20)])  # these stand in every file
        values = dice.normal(size=700).astype(np.float32)
        values[50:60] = [np.nan, np.inf] * 5
        keep(storage, folder, f"{number:05d}-0", keys, values)
        for key, value in zip(keys.tolist(), values.tolist(), strict=True):
            if np.isfinite(value):
                known.setdefault(key, value)
    kept = KeptScores(storage, folder, files_of(storage, folder))
    assert len(kept) == len(known)
    asked = np.array([*known, *dice.integers(0, 2**64, size=500, dtype=np.uint64)], dtype=np.uint64)
    asked = dice.permutation(asked)
    expected = np.array([known.get(key, np.nan) for key in asked.tolist()], dtype=np.float32)
    np.testing.assert_array_equal(kept.find(asked), expected)
    assert len(kept.find(np.empty(0, np.uint64))) == 0


def test_a_key_depends_on_both_texts_and_on_where_one_ends():
    pairs = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("1:a", "b"), ("ab", "c ")]
    assert len(set(keys_of(pairs).tolist())) == len(pairs)
    assert keys_of([]).dtype == np.uint64


def test_other_settings_have_another_folder():
    assert len({folder_of({"model": model, "max_tokens": most}) for model in "ab" for most in (1, 2)}) == 4


def test_a_model_that_is_written_anew_has_another_folder(tmp_path: Path):
    (tmp_path / "model").mkdir()
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(b"one")
    before = state_of(str(tmp_path / "model"))
    assert state_of(str(tmp_path / "model")) == before
    weights.write_bytes(b"two")
    os.utime(weights, ns=(1, 1))
    assert state_of(str(tmp_path / "model")) != before
    assert state_of(str(weights))["files"] == [[".", 3, 1]]
    assert state_of("cross-encoder/of-the-hub") == state_of(None) == {}


def test_nothing_kept_is_nothing_known(tmp_path: Path):
    storage = Storage(str(tmp_path))
    keep(storage, "kept_scores/x", "00000-0", keys_of([("a", "b")]), np.array([np.nan], np.float32))
    assert files_of(storage, "kept_scores/x") == []
    for files in ([], ["kept_scores/x/data/gone.0123456789ab.parquet"]):
        assert np.isnan(KeptScores(storage, "kept_scores/x", files).find(keys_of([("a", "b")]))).all()


def test_a_damaged_file_counts_as_absent_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    storage, folder = Storage(str(tmp_path)), "kept_scores/x"
    pairs = [("a", "b"), ("c", "d")]
    for number, pair in enumerate(pairs):
        keep(storage, folder, f"{number:05d}-0", keys_of([pair]), np.array([number], np.float32))
    first, _ = files_of(storage, folder)
    data = bytearray(storage.get(first))
    data[len(data) // 2] ^= 1
    storage.put(first, bytes(data))
    with caplog.at_level(logging.WARNING):
        found = KeptScores(storage, folder, files_of(storage, folder)).find(keys_of(pairs))
    np.testing.assert_array_equal(found, [np.nan, 1])
    assert first in caplog.text
    assert all(is_removable(file) for file in files_of(storage, folder))


class Counted:
    """A scorer that says what it was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str]] = []

    def score(self, pairs):
        self.given += pairs
        return np.array([words_shared(*pair) for pair in pairs], np.float32)


def test_a_scorer_gets_the_unknown_pairs_alone_and_each_of_them_once(tmp_path: Path):
    storage, scorer = Storage(str(tmp_path)), Counted()
    pairs = [(f"word{number % 3} and", f"word{number % 5} text") for number in range(30)]
    known = list(dict.fromkeys(pairs))[::2]
    keep(storage, "kept_scores/x", "00000-0", keys_of(known), np.arange(len(known), dtype=np.float32) + 100)
    teacher = PairTeacher(scorer, None, KeptScores(storage, "kept_scores/x", files_of(storage, "kept_scores/x")))
    scores_of = teacher._score(pairs)
    before = {pair: 100.0 + number for number, pair in enumerate(known)}
    np.testing.assert_allclose(scores_of, [before.get(pair, words_shared(*pair)) for pair in pairs], rtol=1e-6)
    assert Counter(scorer.given) == Counter(set(pairs) - set(known))
    keys, new, found = teacher.take_new()
    assert sorted(keys.tolist()) == sorted(keys_of(scorer.given).tolist())
    assert len(new) == len(keys)
    assert found == len(known)
    assert [len(part) if isinstance(part, np.ndarray) else part for part in teacher.take_new()] == [0, 0, 0]


# --- a second run ---

RETRIEVAL = RetrievalSettings(
    retrievers={"bm25": RetrieverSettings(kind="bm25")}, depth=5, round_trip_rank=5, min_candidates=1, rows_per_shard=60
)


def opened(folder: Path, overwrite: str = "") -> Run:
    cluster = ClusterSettings(cpus=2, io_pool=POOL, wait_timeout_s=60.0, shard_timeout_s=120.0)
    stages = frozenset({overwrite} if overwrite else ())
    return Run(str(folder), cluster, overwrite=stages, progress=Progress(quiet=True))


def scored(run: Run, url: str, depth: int) -> dict[tuple[str, str], float]:
    """What the server says of each candidate, by the texts of query and passage."""
    passages = run.table("passages")
    retrieval = RETRIEVAL.model_copy(update={"depth": depth})
    found = candidates.build(run, retrieval, {}, passages, [run.table("queries"), run.table("query_log")])
    teacher = settings(url, rows_per_shard=40, pool=POOL)
    table = scores.build(run, "served", teacher, EncoderSettings(model="unused"), found, passages, retrieval, {})
    texts = {row["passage_id"]: passage_text(row["title"], row["text"]) for row in passages.read().to_pylist()}
    asked = {row["query_id"]: row["text"] for row in found.read().to_pylist()}
    return {
        (asked[row["query_id"]], texts[passage]): score
        for row in table.read().to_pylist()
        for passage, score in zip(row["passage_ids"], row["scores"], strict=True)
    }


def take_asked(server: ScoreServer) -> Counter[tuple[str, str]]:
    """The pairs that the server was asked about since the last call."""
    with server.lock:
        requests, server.asked[:] = list(server.asked), []
    return Counter((query, passage) for one in requests for query, texts in [sent(*one)] for passage in texts)


def test_a_second_run_pays_for_new_pairs_alone_until_the_scores_themselves_are_done_again(
    tmp_path: Path, local_ray: None
):
    with serving(ScoreServer) as serve:
        server = serve()
        with opened(tmp_path) as run:
            for write in (write_passages, write_queries, write_log):
                write(run)
            first = scored(run, server.url, 5)
        asked = take_asked(server)
        assert set(asked) == set(first)
        assert max(asked.values()) == 1

        with opened(tmp_path, "candidates") as run:
            second = scored(run, server.url, 9)
            stats = [commit.stats for commit in Table.open(run.storage, "scores/served").commits()]
        assert set(take_asked(server)) == set(second) - set(first)
        assert sum(one["known_pairs"] for one in stats) == len(set(second) & set(first)) > 300
        for pair, score in second.items():
            assert score == pytest.approx(words_shared(*pair), abs=1e-6)

        # the same ids with other texts: only texts say what is known
        with opened(tmp_path) as run:
            rows = run.table("queries").read().to_pylist()
        with opened(tmp_path, "candidates") as run:
            run.storage.delete("queries")
            changed = [{**row, "text": f"{row['text']} again"} if row["query_id"] < "q05" else row for row in rows]
            write_table(run, QUERIES, changed, files=2)
            third = scored(run, server.url, 5)
        again = take_asked(server)
        assert set(again) == set(third) - set(second)
        assert any(query.endswith(" again") for query, _ in again)

        with opened(tmp_path, "scores") as run:
            assert not run.storage.list(KEPT_SCORES)
            assert scored(run, server.url, 5) == third
        assert set(take_asked(server)) == set(third)
