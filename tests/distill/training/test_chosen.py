"""Which checkpoints a training keeps, and which weights it exports: the best ones, those of the base, or the last."""

from __future__ import annotations

import numpy as np
from sentence_transformers import SentenceTransformer

from distill.training.checkpoint_files import name_of
from tests.distill.list_tables import write_run
from tests.distill.ranks import on_ranks
from tests.distill.training.test_trainer import make_job, metrics, train_rank


def test_where_no_step_is_better_the_base_stays_and_training_ends_early(tiny_encoder, tmp_path):
    """A rate that moves nothing: the base is the best, and after two evaluations that are no better it is over."""
    write_run(tmp_path)
    job = make_job(
        tmp_path, tiny_encoder, learning_rate=1e-30, evaluate_every=1, patience=2, keep_checkpoints=1, epochs=50
    )
    (record,) = on_ranks(train_rank, 1, job.to_json())
    assert (record["steps"], record["best_step"]) == (2, 0)
    assert record["steps"] < record["total_steps"]
    assert record["best_dev"] == record["base_dev"]["dev_ndcg@10"]
    assert record["outcome"].startswith("Training did not help, the base stays: no evaluation in 2 steps was better")
    assert [path.name for path in (tmp_path / "training" / "checkpoints").iterdir()] == ["step-00000002"]
    assert record["outcome"] in (tmp_path / "model" / "README.md").read_text()
    exported, base = (SentenceTransformer(str(path), device="cpu") for path in (tmp_path / "model", tiny_encoder))
    texts = ["slate of Ardell", "A longer text about the quarries of Bryndal and the people who work there."]
    assert np.array_equal(exported.encode(texts), base.encode(texts))


def test_the_best_checkpoint_is_kept_beside_the_newest(tiny_encoder, tmp_path):
    """The rate leaps when the first step has taught something: what follows is worse."""
    write_run(tmp_path)
    job = make_job(
        tmp_path, tiny_encoder, learning_rate=2e-2, warmup_steps=0, evaluate_every=1, patience=2, keep_checkpoints=1,
        epochs=50, seed=1,
    )  # fmt: skip
    (record,) = on_ranks(train_rank, 1, job.to_json())
    kept = sorted(path.name for path in (tmp_path / "training" / "checkpoints").iterdir())
    assert kept == sorted({name_of(record["best_step"]), name_of(record["steps"])} - {name_of(0)})
    assert record["best_dev"] == max(line["dev_ndcg@10"] for line in metrics(tmp_path) if "dev_ndcg@10" in line)


def test_without_dev_lists_checkpoints_are_written_where_evaluations_would_be(tiny_encoder, tmp_path):
    write_run(tmp_path, dev=False)
    job = make_job(tmp_path, tiny_encoder, evaluate_every=2, epochs=2, keep_checkpoints=9)
    (record,) = on_ranks(train_rank, 1, job.to_json())
    kept = sorted(path.name for path in (tmp_path / "training" / "checkpoints").iterdir())
    assert kept == [f"step-{step:08d}" for step in range(2, record["steps"] + 1, 2)]
    assert record["dev"] is None
