"""Scores of every kind of teacher against independent references."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.tables.columns import map_of_lists_column
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.worker import Task
from distill.encoders.encoder import Encoder
from distill.retrieval.bm25 import Bm25Index, passage_texts
from distill.retrieval.tokenizers import TextSettings
from distill.settings.retrieval import RetrievalSettings, RetrieverSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers import scores
from distill.teachers.base import CandidateQuery
from distill.teachers.scores import ScoreWorker, as_retriever
from tests.distill.conftest import POOL, RETRIEVAL, Retrieved


def reference_scores(retrieved: Retrieved, name: str, reranker: TeacherSettings, rows: list[dict]) -> list[np.ndarray]:
    """(C,) scores of each query, computed query by query from whole matrices, or with transformers alone."""
    texts = [text for batch in passage_texts(retrieved.passages) for text in batch]
    if name == "bm25":
        index = Bm25Index([texts])
        return [index.score(row["text"], np.array(row["passage_rows"])) for row in rows]
    if name == "dense":
        model = Encoder(retrieved.encoder)
        passages = model.encode_passages([""] * len(texts), texts)
        queries = model.encode_queries([row["text"] for row in rows])
        return [passages[row["passage_rows"]] @ query for row, query in zip(rows, queries, strict=True)]
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reranker.model)
    model = AutoModelForSequenceClassification.from_pretrained(reranker.model).eval()
    logits = []
    for row in rows:
        passages = [texts[number] for number in row["passage_rows"]]
        features = tokenizer(
            [row["text"]] * len(passages), passages, padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        with torch.no_grad():
            logits.append(model(**features).logits[:, 0].numpy())
    return logits


@pytest.mark.parametrize("name", ["bm25", "reranker", "dense"])
def test_scores_equal_an_independent_reference_for_every_kind_of_teacher(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table], reranker: TeacherSettings, name: str
):
    rows = proposed.read().to_pylist()
    score_rows = scored[name].read().to_pylist()
    assert [row["query_id"] for row in score_rows] == [row["query_id"] for row in rows]
    assert [row["passage_ids"] for row in score_rows] == [row["passage_ids"] for row in rows]
    for row, expected in list(zip(score_rows, reference_scores(retrieved, name, reranker, rows), strict=True))[::5]:
        np.testing.assert_allclose(row["scores"], expected, rtol=1e-3, atol=1e-5)
    pairs = sum(commit.stats["pairs"] for commit in scored[name].commits())
    assert pairs == sum(len(row["passage_ids"]) for row in rows)
    tokens = sum(commit.tokens for commit in scored[name].commits())
    assert tokens > pairs * 20 if name == "reranker" else tokens == 0


def score_worker(retrieved: Retrieved, proposed: Table, kind: str, retriever: str | None) -> ScoreWorker:
    vectors = (retrieved.vectors.passages.path, retrieved.vectors.queries.path) if kind == "bi_encoder" else None
    teacher = TeacherSettings(kind=kind)
    return ScoreWorker(retrieved.run.storage, teacher, "passages", vectors, proposed.path, retriever)


@pytest.mark.parametrize(("kind", "retriever"), [("bm25", "bm25"), ("bi_encoder", "tiny")])
def test_scores_that_a_retriever_gave_are_taken_and_the_others_computed_with_the_same_result(
    retrieved: Retrieved, proposed: Table, kind: str, retriever: str
):
    rows = proposed.read()
    whole = Task(Shard("00000", rows.num_rows, params={"first": 0}), 0, rows.num_rows, rows)
    computed = score_worker(retrieved, proposed, kind, None).process(whole).rows
    worker = score_worker(retrieved, proposed, kind, retriever)
    for wanted, got in zip(
        computed["scores"].to_pylist(), worker.process(whole).rows["scores"].to_pylist(), strict=True
    ):
        np.testing.assert_array_equal(got, wanted)

    # A score that no computation gives shows that known scores are taken and all others are not touched.
    known = [np.array(dict(row)[retriever], np.float32) for row in rows["retriever_scores"].to_pylist()]
    missing = [np.isnan(values) for values in known]
    assert 0 < sum(map(np.sum, missing)) < sum(map(len, missing)), "some candidates come from the other retriever alone"
    lengths = np.array([len(values) for values in known])
    column = map_of_lists_column([retriever], np.concatenate(known)[None] + 1000, lengths, pa.float32())
    moved = rows.set_column(rows.column_names.index("retriever_scores"), "retriever_scores", column)
    shifted = worker.process(Task(whole.shard, 0, rows.num_rows, moved)).rows["scores"].to_pylist()
    for number, wanted in enumerate(computed["scores"].to_pylist()):
        np.testing.assert_allclose(np.array(shifted[number]) - np.where(missing[number], 0, 1000), wanted, atol=1e-4)


def test_a_bm25_teacher_reads_texts_as_the_retriever_does_unless_it_says_how():
    german = RetrieverSettings(kind="bm25", language="german")
    retrieval = RetrievalSettings(retrievers={"dense": RetrieverSettings(kind="dense"), "words": german})
    plain, own = TeacherSettings(kind="bm25"), TeacherSettings(kind="bm25", language="english")
    teacher, retriever = as_retriever(plain, retrieval)
    assert (teacher.language, retriever) == ("german", "words")
    assert as_retriever(own, retrieval) == (own, None), "scores of German stems are not those of English ones"
    assert as_retriever(own, RETRIEVAL) == (own, "bm25"), "English words are the default"
    alone = RetrievalSettings(retrievers={"dense": RetrieverSettings(kind="dense")})
    assert as_retriever(plain, alone) == (plain, None)


def test_a_teacher_of_another_tokenizer_has_scores_of_its_own(retrieved: Retrieved, proposed: Table):
    rows = proposed.read()
    task = Task(Shard("00000", rows.num_rows, params={"first": 0}), 0, 5, rows.slice(0, 5))
    teacher = TeacherSettings(kind="bm25", tokenizer="ngrams")
    output = ScoreWorker(retrieved.run.storage, teacher, "passages", None, proposed.path).process(task).rows
    texts = [text for batch in passage_texts(retrieved.passages) for text in batch]
    index = Bm25Index([texts], reads=TextSettings(ngrams=True))
    for row, given in zip(task.rows.to_pylist(), output["scores"].to_pylist(), strict=True):
        np.testing.assert_array_equal(given, index.score(row["text"], np.array(row["passage_rows"])))


def test_no_vector_of_a_passage_is_read_where_the_retriever_gave_all_scores(retrieved: Retrieved, proposed: Table):
    worker = score_worker(retrieved, proposed, "bi_encoder", "tiny")
    rows = proposed.read().slice(3, 2)
    whole = [np.array(values) for values in rows["passage_rows"].to_pylist()]
    known = [np.array(dict(values)["tiny"], np.float32) for values in rows["retriever_scores"].to_pylist()]
    queries = [
        CandidateQuery(3 + number, query_id, "", whole[number][~np.isnan(known[number])], scores)
        for number, query_id in enumerate(rows["query_id"].to_pylist())
        if len(scores := known[number][~np.isnan(known[number])])
    ]
    worker.teacher._passages = None  # type: ignore[union-attr, assignment]  # reading would fail
    scores, _ = worker.teacher.score(queries)
    assert [values.tolist() for values in scores] == [query.known.tolist() for query in queries]  # type: ignore[union-attr]


@pytest.mark.cluster
def test_a_teacher_without_a_retrievers_vectors_embeds_every_text_once_and_gives_the_same_scores(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table]
):
    teacher = TeacherSettings(kind="bi_encoder", rows_per_shard=30, pool=POOL)
    table = scores.build(retrieved.run, "own", teacher, retrieved.encoder, proposed, retrieved.passages, RETRIEVAL, {})
    assert retrieved.run.table("scores/own-vectors/passages").num_rows == 100
    for row, expected in zip(table.read().to_pylist(), scored["dense"].read().to_pylist(), strict=True):
        np.testing.assert_allclose(row["scores"], expected["scores"], atol=1e-5)


def test_a_query_with_a_score_that_is_not_finite_is_a_reject_and_all_others_are_scored(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table], reranker: TeacherSettings, tmp_path
):
    """The cross-encoder's embedding of unknown words is NaN; one logged query contains such a word."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(reranker.model)
    model = AutoModelForSequenceClassification.from_pretrained(reranker.model)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[tokenizer.unk_token_id] = torch.nan
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    broken = reranker.model_copy(update={"model": str(tmp_path)})
    table = scores.build(
        retrieved.run, "broken", broken, retrieved.encoder, proposed, retrieved.passages, RETRIEVAL, {}
    )
    (reject,) = table.rejects()
    assert (reject["stage"], reject["row"], reject["units"], reject["attempts"]) == ("scores", "log2", 1, 1)
    assert "scores are not finite" in reject["error"]
    expected = {row["query_id"]: row["scores"] for row in scored["reranker"].read().to_pylist()}
    del expected["log2"]
    scores_of = {row["query_id"]: row["scores"] for row in table.read().to_pylist()}
    assert scores_of.keys() == expected.keys()
    for query, values in scores_of.items():
        np.testing.assert_allclose(values, expected[query], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("model", ["/nowhere/reranker", "tiny"])
def test_a_teacher_model_that_does_not_exist_is_bad_input(retrieved: Retrieved, model: str):
    teacher = TeacherSettings(kind="cross_encoder", model=model)
    with pytest.raises(InputError, match=f"'{model}'"):
        ScoreWorker(retrieved.run.storage, teacher, "passages", None, None)
