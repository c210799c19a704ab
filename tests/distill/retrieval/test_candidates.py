"""Embeddings and candidates of a run, against whole matrices in memory; the filters and their counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.run import Run
from cluster.schemas import CANDIDATES, PASSAGE_VECTORS, QUERY_VECTORS, TableSchema
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.tables.vectors import vectors_of
from cluster.workers.worker import Task
from distill.encoders.encoder import Encoder
from distill.retrieval import candidates, embeddings
from distill.retrieval.bm25 import Bm25Index, passage_texts
from distill.retrieval.candidates import CandidateWorker
from distill.retrieval.embeddings import EmbeddingWorker, Vectors
from distill.settings.encoders import EncoderSettings
from distill.settings.retrieval import RetrievalSettings, RetrieverSettings
from distill.teachers.bi_encoder import BiEncoderTeacher
from tests.distill.conftest import POOL, Retrieved
from tests.distill.run_tables import write_queries, write_table


def settings(**more) -> RetrievalSettings:
    retrievers = {"tiny": RetrieverSettings(kind="dense"), "bm25": RetrieverSettings(kind="bm25")}
    return RetrievalSettings(**({"retrievers": retrievers, "rows_per_shard": 30, "depth": 40} | more))


def alone(name: str, **more) -> dict:
    return {"retrievers": {name: RetrieverSettings(kind="dense", **more)}}


def random_vectors(run: Run, passages: Table, query_tables: list[Table], encoder: EncoderSettings) -> Vectors:
    """Random vectors: they lie so far apart that rounding cannot swap two ranks, as it can with a tiny random model."""
    generator = np.random.default_rng(11)

    def table(side: str, schema: TableSchema, ids: list[str]) -> Table:
        vectors = generator.normal(size=(len(ids), 16)).astype(np.float32)
        rows = [{"id": key, "vector": vector} for key, vector in zip(ids, vectors.tolist(), strict=True)]
        return write_table(run, schema, rows, path=f"embeddings/random/{side}")

    query_ids = [query for queries in query_tables for query in queries.read(["query_id"]).column(0).to_pylist()]
    return Vectors(
        encoder,
        table("passages", PASSAGE_VECTORS, passages.read(["passage_id"]).column(0).to_pylist()),
        table("queries", QUERY_VECTORS, query_ids),
    )


def brute_force(passages: Table, query_tables: list[Table], vectors: Vectors, depth: int) -> dict[str, np.ndarray]:
    """Fused rows by query id, from whole matrices in memory."""
    texts = [text for batch in passage_texts(passages) for text in batch]
    rows = [row for table in query_tables for row in table.read().to_pylist()]
    queries, documents = (vectors_of(table.read().column("vector")) for table in (vectors.queries, vectors.passages))
    dense = np.argsort(-(queries @ documents.T), axis=1, kind="stable")[:, :depth]
    sparse = Bm25Index([texts]).search([row["text"] for row in rows], depth).rows
    fused = {}
    for number, row in enumerate(rows):
        gains: Counter[int] = Counter()
        for run in (dense[number], sparse[number]):
            gains.update({passage: 1 / (60 + rank) for rank, passage in enumerate(run[run >= 0].tolist(), start=1)})
        fused[row["query_id"]] = np.array(sorted(gains, key=lambda passage: (-gains[passage], passage))[:depth])
    return fused


def test_embeddings_hold_the_encoders_vectors_of_every_text_in_order(retrieved: Retrieved):
    opened, passages, queries, vectors, encoder = retrieved
    model = Encoder(encoder)
    rows = passages.read()
    vector_rows = vectors.passages.read()
    assert vector_rows.column("id").to_pylist() == rows.column("passage_id").to_pylist()
    expected = model.encode_passages(rows.column("title").to_pylist(), rows.column("text").to_pylist())
    np.testing.assert_allclose(vectors_of(vector_rows.column("vector")), expected, atol=1e-5)
    query_ids = [row["query_id"] for table in queries for row in table.read().to_pylist()]
    assert vectors.queries.read().column("id").to_pylist() == query_ids
    assert sum(commit.tokens for commit in vectors.passages.commits()) > 100 * 20
    again = embeddings.build(opened, "tiny", encoder.model_copy(update={"batch_tokens": 512}), POOL, passages, queries)
    assert again.passages.fingerprint == vectors.passages.fingerprint, "the batch size does not change the vectors"
    with pytest.raises(InputError, match="overwrite embeddings"):
        embeddings.build(opened, "tiny", encoder.model_copy(update={"query_prompt": "x"}), POOL, passages, queries)


def test_candidates_equal_a_brute_force_over_whole_matrices(retrieved: Retrieved):
    opened, passages, queries, _, encoder = retrieved
    vectors = random_vectors(opened, passages, queries, encoder)
    opened.storage.delete("candidates")
    table = candidates.build(opened, settings(round_trip_rank=40), {"tiny": vectors}, passages, queries)
    fused = brute_force(passages, queries, vectors, 40)
    ids = passages.read(["passage_id"]).column(0).to_pylist()
    candidates_of = {row["query_id"]: row for row in table.read().to_pylist()}
    for query, expected in fused.items():
        synthetic = not query.startswith("log")
        if synthetic and f"p{query[1:]}" not in [ids[row] for row in expected]:
            assert query not in candidates_of
            continue
        row = candidates_of[query]
        assert row["passage_rows"] == expected.tolist()
        assert row["passage_ids"] == [ids[number] for number in expected]
        assert row["fused"] == sorted(row["fused"], reverse=True)
        assert (row["source_id"] is None) == (not synthetic)


def test_every_candidate_carries_the_scores_of_the_retrievers_that_returned_it(retrieved: Retrieved):
    opened, passages, queries, vectors, _ = retrieved
    paths = {"tiny": (vectors.passages.path, vectors.queries.path), "bm25": None}
    worker = CandidateWorker(opened.storage, "passages", paths, settings(depth=30))
    rows = queries[0].read()
    output = worker.process(Task(Shard("00000", 100, params={"first": 0}), 0, 100, rows)).rows
    assert output.schema.field("retriever_scores").type == CANDIDATES.schema.field("retriever_scores").type
    encoded, documents = (vectors_of(table.read().column("vector")) for table in (vectors.queries, vectors.passages))
    index = Bm25Index([[text for batch in passage_texts(passages) for text in batch]])
    numbers = {query_id: number for number, query_id in enumerate(rows["query_id"].to_pylist())}
    for row in output.to_pylist():
        given, candidates_of = dict(row["retriever_scores"]), np.array(row["passage_rows"])
        assert list(given) == ["tiny", "bm25"]
        dense = documents @ encoded[numbers[row["query_id"]]]
        sparse = index.score(row["text"], np.arange(100))
        for scores, all_scores, lowest in ((given["tiny"], dense, -2.0), (given["bm25"], sparse, 0.0)):
            first = np.lexsort((np.arange(100), -all_scores))[:30]
            returned = np.isin(candidates_of, first[all_scores[first] > lowest])
            # Rounding may swap two passages of a tiny random model at the last rank.
            kept = np.array([score is not None for score in scores])
            assert np.sum(kept != returned) <= (2 if lowest < 0 else 0)
            own = np.array(scores, np.float32)[kept]
            np.testing.assert_allclose(own, all_scores[candidates_of[kept]], atol=1e-5)


def test_the_filters_account_for_every_query_and_logged_queries_need_no_round_trip(retrieved: Retrieved):
    opened, passages, queries, _, encoder = retrieved
    vectors = random_vectors(opened, passages, queries, encoder)
    opened.storage.delete("candidates")
    table = candidates.build(opened, settings(round_trip_rank=3), {"tiny": vectors}, passages, queries)
    drops = sum(commit.drops.get("round_trip", 0) for commit in table.commits())
    assert 0 < drops < 100
    assert table.num_rows + drops == 103
    ids = passages.read(["passage_id"]).column(0).to_pylist()
    fused = brute_force(passages, queries, vectors, 40)
    failed = sum(f"p{query[1:]}" not in [ids[r] for r in rows[:3]] for query, rows in fused.items() if query[0] == "q")
    assert drops == failed
    assert {"log0", "log1", "log2"} <= set(table.read(["query_id"]).column(0).to_pylist())


def test_a_query_over_two_passages_stays_only_if_both_are_found(retrieved: Retrieved):
    opened, _, queries, vectors, _ = retrieved
    paths = {"tiny": (vectors.passages.path, vectors.queries.path), "bm25": None}
    worker = CandidateWorker(opened.storage, "passages", paths, settings(round_trip_rank=5))
    rows = queries[0].read()

    def kept(second: dict[str, str]) -> list[dict]:
        seconds = pa.array([second.get(query) for query in rows["query_id"].to_pylist()], pa.string())
        changed = rows.set_column(rows.column_names.index("second_source_id"), "second_source_id", seconds)
        output = worker.process(Task(Shard("00000", 100, params={"first": 0}), 0, 100, changed))
        assert output.rows.num_rows + output.drops["round_trip"] == 100
        return output.rows.to_pylist()

    alone = kept({})
    assert {row["second_source_id"] for row in alone} == {None}
    near = {row["query_id"]: next(one for one in row["passage_ids"] if one != row["source_id"]) for row in alone[:10]}
    far = {row["query_id"]: row["passage_ids"][20] for row in alone[10:20]}
    both = {row["query_id"]: row for row in kept(near | far)}
    assert set(both) == {row["query_id"] for row in alone} - set(far)
    assert {query: both[query]["second_source_id"] for query in near} == near


def test_judged_passages_are_no_candidates_if_the_recipe_says_so(retrieved: Retrieved):
    opened, passages, queries, _, encoder = retrieved
    vectors = random_vectors(opened, passages, queries, encoder)
    ids = passages.read(["passage_id"]).column(0).to_pylist()
    judged = frozenset(ids[::3])

    def build(**more) -> Table:
        opened.storage.delete("candidates")
        chosen = settings(round_trip_rank=100, min_candidates=1, depth=30, **more)
        return candidates.build(opened, chosen, {"tiny": vectors}, passages, queries, judged)

    plain, without = build(), build(leave_out_judged=True)
    assert "left_out" not in plain.plan.fingerprint
    assert without.plan.fingerprint["left_out"][0] == 34
    fused = brute_force(passages, queries, vectors, 30)
    rows = {row["query_id"]: row for row in without.read().to_pylist()}
    assert len(rows) > 30
    for query, row in rows.items():
        assert not judged & set(row["passage_ids"])
        stays = [number for number in fused[query] if ids[number] not in judged]
        assert row["passage_rows"][: len(stays)] == stays, "the others keep their order"


def test_no_candidates_at_all_is_bad_input_that_names_both_filters(retrieved: Retrieved):
    opened, passages, queries, vectors, _ = retrieved
    opened.storage.delete("candidates")
    with pytest.raises(InputError, match=r"of 103 queries.*round_trip took.*few_candidates took"):
        candidates.build(opened, settings(min_candidates=90), {"tiny": vectors}, passages, queries)


@pytest.mark.parametrize(("index_rows", "index_cache_mib"), [(1, 0), (50, 0), (1000, 64)])
def test_block_size_and_memory_do_not_change_the_candidates(
    retrieved: Retrieved, index_rows: int, index_cache_mib: int
):
    opened, _, queries, vectors, _ = retrieved
    paths = {"tiny": (vectors.passages.path, vectors.queries.path), "bm25": None}
    task = Task(Shard("00000", 100, params={"first": 0}), 20, 60, queries[0].read().slice(20, 40))
    reference = CandidateWorker(opened.storage, "passages", paths, settings()).process(task)
    chosen = settings(index_rows=index_rows, index_cache_mib=index_cache_mib)
    worker = CandidateWorker(opened.storage, "passages", paths, chosen)
    for _ in range(2):
        assert worker.process(task).rows.equals(reference.rows)


def test_an_approximate_index_gives_the_same_candidates_in_shards_of_any_size_and_its_recall_is_counted(
    retrieved: Retrieved,
):
    opened, passages, queries, _, encoder = retrieved
    random = random_vectors(opened, passages, queries, encoder)
    paths: dict = {"tiny": (random.passages.path, random.queries.path)}
    rows, shard = queries[0].read(), Shard("00000", 100, params={"first": 0})
    common = {"min_candidates": 1, "round_trip_rank": 30, "depth": 30}
    exact = CandidateWorker(opened.storage, "passages", paths, settings(**alone("tiny"), **common))
    reference = exact.process(Task(shard, 0, 100, rows))
    assert reference.stats == {}
    for more, least in (
        ({"index": "ivf", "lists": 8, "nprobe": 8}, 1.0),
        ({"index": "ivf", "lists": 8, "nprobe": 3}, 0.3),
        ({"index": "hnsw", "m": 8}, 0.9),
    ):
        worker = CandidateWorker(opened.storage, "passages", paths, settings(**alone("tiny", **more), **common))
        whole = worker.process(Task(shard, 0, 100, rows))
        assert whole.stats["nearest_tiny"] == 103 * 30, "written and logged queries"
        assert whole.stats["found_tiny"] >= least * whole.stats["nearest_tiny"]
        if least == 1.0:
            assert whole.rows.equals(reference.rows)
        parts = [worker.process(Task(shard, a, min(a + 7, 100), rows.slice(a, 7))) for a in range(0, 100, 7)]
        assert pa.concat_tables([part.rows for part in parts]).combine_chunks().equals(whole.rows.combine_chunks())
        assert [part.stats for part in parts[1:]] == [{}] * 14


def test_rejected_passages_and_queries_do_not_shift_the_rows_of_the_others(retrieved: Retrieved):
    opened, _, queries, vectors, _ = retrieved
    for side, table, missing in (("passages", vectors.passages, "p071"), ("queries", vectors.queries, "q050")):
        rows = [row for row in table.read().to_pylist() if row["id"] != missing]
        # One file and one shard of all rows, like a table of which one row was rejected.
        schema = PASSAGE_VECTORS if side == "passages" else QUERY_VECTORS
        write_table(opened, schema, rows, path=f"embeddings/gap/{side}", files=1, rejects=1)
    paths: dict = {"gap": ("embeddings/gap/passages", "embeddings/gap/queries")}
    worker = CandidateWorker(
        opened.storage, "passages", paths, settings(**alone("gap"), min_candidates=1, round_trip_rank=99, depth=99)
    )
    output = worker.process(Task(Shard("00000", 100, params={"first": 0}), 0, 100, queries[0].read()))
    passage_ids = {row["query_id"]: row["passage_ids"] for row in output.rows.to_pylist()}
    assert output.drops == {"round_trip": 2}, "q050 has no hits, and no query can retrieve p071"
    paths = {"whole": ("embeddings/tiny/passages", "embeddings/tiny/queries")}
    whole = CandidateWorker(
        opened.storage, "passages", paths, settings(**alone("whole"), min_candidates=1, round_trip_rank=100, depth=100)
    )
    for row in whole.process(
        Task(Shard("00000", 100, params={"first": 0}), 0, 100, queries[0].read())
    ).rows.to_pylist():
        if row["query_id"] in passage_ids:
            assert passage_ids[row["query_id"]] == [passage for passage in row["passage_ids"] if passage != "p071"]


def test_vectors_of_a_model_that_was_replaced_are_refused_with_the_remedy(retrieved: Retrieved):
    opened, passages, _, vectors, _ = retrieved
    rows = [{**row, "vector": row["vector"][:8]} for row in vectors.queries.read().to_pylist()]
    write_table(opened, QUERY_VECTORS, rows, path="embeddings/other/queries", files=1)
    paths: dict = {"other": ("embeddings/tiny/passages", "embeddings/other/queries")}
    message = r"have 32 dimensions, those in embeddings/other/queries 8.*--overwrite embeddings"
    with pytest.raises(InputError, match=message):
        CandidateWorker(opened.storage, "passages", paths, settings(**alone("other")))
    ids = passages.read(["passage_id"]).column(0)
    with pytest.raises(InputError, match=message):
        BiEncoderTeacher(vectors.passages, ids, opened.table("embeddings/other/queries"), None)


def test_a_text_whose_vector_is_not_finite_is_a_reject(tiny_encoder: str, run: Callable):
    import torch

    queries = write_queries(run()).read()
    worker = EmbeddingWorker(EncoderSettings(model=tiny_encoder, dtype="float32"), "queries")
    with torch.no_grad():
        # The embedding of a word that 20 queries contain becomes infinite, and so do their vectors.
        embedding = worker.encoder.model[0].model.embeddings.word_embeddings
        embedding.weight[worker.encoder.model.tokenizer.convert_tokens_to_ids("lessons")] = torch.inf
    output = worker.process(Task(Shard("00000", 100), 0, 100, queries))
    rejected = [text for text in queries.column("text").to_pylist() if "lessons" in text]
    assert len(output.rejects) == len(rejected) == 20
    assert output.rows.num_rows == 80
