"""The probe of a teacher: it lets a model pass that tells passages apart, and refuses one that does not."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.run import Run
from cluster.settings import ClusterSettings
from cluster.watch.progress import Progress
from distill.settings.teachers import TeacherSettings
from distill.teachers import probe_stage
from distill.teachers.language_model import LanguageModelScorer
from distill.teachers.probe import known_pairs, probe, refuse_a_blind
from distill.teachers.template import template_of
from tests.distill.conftest import POOL
from tests.distill.teachers import language_models as tiny
from tests.smollm2 import smollm2_folder


class Words:
    """Scorer that counts the words of the query that stand in the passage, changed by a function."""

    def __init__(self, change=lambda scores: scores) -> None:
        self.change = change

    def score(self, pairs) -> np.ndarray:
        counts = [self._overlap(*pair) for pair in pairs]
        return np.asarray(self.change(np.array(counts)), dtype=np.float32)

    @staticmethod
    def _overlap(query: str, passage: str) -> float:
        asked, said = (set(re.findall("[a-z]{3,}", text.lower())) for text in (query, passage))
        return len(asked & said) / len(asked) + zlib.crc32(f"{query} {passage}".encode()) / 2**32 * 1e-3

    def shown(self, pair) -> str:
        return f"<q>{pair[0]}</q>"

    def take_tokens(self) -> int:
        return 0


def test_known_pairs_are_ten_different_ones():
    queries, passages = zip(*known_pairs(), strict=True)
    assert len(set(queries)) == len(set(passages)) == 10


def test_shares_are_those_of_all_comparisons():
    known = (("red apple", "an apple that is red"), ("blue whale", "a whale"), ("green tea", "a cup of red tea"))
    verdict = probe(Words(), known)
    overlaps = np.array([[Words._overlap(query, passage) for _, passage in known] for query, _ in known])
    right = [overlaps[row, row] > overlaps[row, column] for row in range(3) for column in range(3) if row != column]
    assert verdict.right == pytest.approx(np.mean(right))
    assert verdict.own_text == 1.0
    assert verdict.distinct == len(np.unique(overlaps.astype(np.float32))) / 9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: -scores, "in [0-9]+% of comparisons"),
        (lambda scores: np.round(scores * 2), "of the scores of a hundred pairs differ"),
        (lambda scores: scores * 0 + 3, "of the scores of a hundred pairs differ"),
        (lambda scores: np.where(scores == scores.max(), np.nan, scores), "not finite"),
    ],
    ids=["wrong_way_round", "coarse", "constant", "nan"],
)
def test_a_scorer_that_cannot_judge_is_refused_and_what_it_was_sent_is_shown(change, message: str):
    with pytest.raises(InputError, match=message) as caught:
        refuse_a_blind("judge", Words(change))
    assert "teachers.judge" in str(caught.value)
    assert f"<q>{known_pairs()[0][0]}</q>" in str(caught.value)


def test_a_real_language_model_passes_by_the_likelihood_of_queries():
    settings = TeacherSettings(kind="query_likelihood", model=str(smollm2_folder()))
    template = template_of(settings)
    assert template is not None
    verdict = refuse_a_blind("smollm2", LanguageModelScorer(settings, template))
    assert verdict.right > 0.95
    assert verdict.distinct > 0.95


def test_a_run_refuses_a_teacher_before_queries_are_written(tmp_path: Path):
    folder = tiny.save_qwen(tmp_path / "Qwen3-Reranker-0.6B", 3)
    teacher = TeacherSettings(kind="causal", model=folder, max_tokens=1000, dtype="float32", pool=POOL)
    cluster = ClusterSettings(cpus=2, wait_timeout_s=60.0, shard_timeout_s=120.0)
    with Run(str(tmp_path / "run"), cluster, progress=Progress(quiet=True)) as run:
        with pytest.raises(InputError, match=r"(?s)teachers.judge: the model cannot be used.*<\|im_start\|>system"):
            probe_stage.build(run, "judge", teacher)
        assert probe_stage.build(run, "judge", teacher.model_copy(update={"probe": False})) is None
        assert probe_stage.build(run, "words", TeacherSettings(kind="bm25")) is None
        lost = teacher.model_copy(update={"model": str(tmp_path / "nowhere")})
        with pytest.raises(InputError, match=r"teachers.judge: .*no such folder"):
            probe_stage.build(run, "judge", lost.model_copy(update={"template": "qwen3-reranker"}))
