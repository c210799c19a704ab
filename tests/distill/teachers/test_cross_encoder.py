"""Cross-encoders as teachers: labels, precision, and batches that run out of memory."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.tables.row_reader import RowReader
from distill.retrieval.bm25 import passage_texts
from distill.settings.teachers import TeacherSettings
from distill.teachers.base import CandidateQuery
from distill.teachers.cross_encoder import CrossEncoderScorer
from distill.teachers.pairs import PairTeacher
from tests.distill.conftest import Retrieved


def test_a_batch_that_runs_out_of_memory_is_halved_and_stays_halved(
    retrieved: Retrieved, reranker: TeacherSettings, monkeypatch: pytest.MonkeyPatch
):
    texts = RowReader(retrieved.passages, ["title", "text"])
    queries = [CandidateQuery(0, "q", "old maps", np.arange(100)), CandidateQuery(1, "r", "silver ore", np.arange(7))]
    expected, tokens = PairTeacher(CrossEncoderScorer(reranker), texts).score(queries)
    assert [len(values) for values in expected] == [100, 7]

    teacher = PairTeacher(CrossEncoderScorer(reranker.model_copy(update={"batch_size": 40})), texts)
    reader = teacher.scorer.reader
    teacher.score(queries)  # the trial is over
    teacher.scorer.take_tokens()
    logits, sizes = reader.module.logits, []
    limit = 12 * 64  # tokens of a batch, padding included

    def small_memory(**features):
        sizes.append(features["input_ids"].numel())
        if sizes[-1] > limit:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.")
        return logits(**features)

    monkeypatch.setattr(reader.module, "logits", small_memory)
    halved, tokens_halved = teacher.score(queries)
    assert reader.batches.tokens == 10 * 64
    assert limit < sizes[1] <= 20 * 64 < sizes[0] <= 40 * 64, "two sizes are too large"
    assert max(sizes[2:]) <= 10 * 64
    assert tokens_halved == tokens
    for values, wanted in zip(halved, expected, strict=True):
        np.testing.assert_allclose(values, wanted, atol=1e-5)
    sizes.clear()
    teacher.score(queries)
    assert max(sizes) <= 10 * 64

    def no_memory(**features):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(reader.module, "logits", no_memory)
    with pytest.raises(RuntimeError, match="one sequence alone runs out of memory"):
        teacher.score(queries)
    assert reader.batches.tokens == 10 * 64, "a pair too large for memory does not shrink the batches of later shards"


def test_a_reranker_with_two_labels_scores_log_odds_and_one_with_more_is_refused(
    retrieved: Retrieved, reranker: TeacherSettings, tmp_path
):
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification

    texts = RowReader(retrieved.passages, ["title", "text"])
    query = CandidateQuery(0, "q", "old maps", np.arange(5))
    for labels in (2, 3):
        folder = tmp_path / str(labels)
        model = BertForSequenceClassification.from_pretrained(
            reranker.model, num_labels=labels, ignore_mismatched_sizes=True
        )
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(reranker.model).save_pretrained(folder)
    teacher = PairTeacher(CrossEncoderScorer(reranker.model_copy(update={"model": str(tmp_path / "2")})), texts)
    pairs = [("old maps", text) for text in next(passage_texts(retrieved.passages))[:5]]
    logits = teacher.scorer.model.predict(pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False)
    np.testing.assert_allclose(teacher.score([query])[0][0], logits[:, 1] - logits[:, 0], atol=1e-5)
    with pytest.raises(InputError, match="3 labels"):
        PairTeacher(CrossEncoderScorer(reranker.model_copy(update={"model": str(tmp_path / "3")})), texts)


def test_bfloat16_scores_are_not_rounded_to_a_coarse_grid(retrieved: Retrieved, reranker: TeacherSettings):
    texts = RowReader(retrieved.passages, ["title", "text"])
    queries = [CandidateQuery(0, "q", "old maps of the harbour", np.arange(100))]
    exact = PairTeacher(CrossEncoderScorer(reranker), texts).score(queries)[0][0]
    bfloat16 = PairTeacher(CrossEncoderScorer(reranker.model_copy(update={"dtype": "bfloat16"})), texts).score(queries)[
        0
    ][0]
    assert len(np.unique(bfloat16)) > 90
    assert np.abs(bfloat16 - exact).max() < 0.02
