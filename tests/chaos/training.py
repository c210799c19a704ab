"""The driver of a training with two ranks, whose ranks and nodes the fault tests kill.

Arguments: workdir, address of the Ray cluster, encoder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.run import Run
from cluster.settings import ClusterSettings
from cluster.watch.progress import Progress
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings
from distill.training.stage import build
from launcher import cli
from tests.distill.list_tables import write_run

STEPS = 90  # so many that training is far from its end when a rank or node is killed


def main(workdir: str, address: str, encoder: str) -> None:
    write_run(Path(workdir))
    training = TrainingSettings(
        ranks=2, cpus_per_rank=0.5, queries_per_step=24, list_length=8, epochs=STEPS // 3, learning_rate=2e-3,
        warmup_steps=2, micro_batch_tokens=1024, dtype="float32", trackers=[], patience=100, evaluate_every=30,
        checkpoint_every=2,
    )  # fmt: skip
    student = StudentSettings(model=encoder, max_query_tokens=32, max_passage_tokens=64)
    settings = ClusterSettings(address=address, wait_timeout_s=120)
    with Run(workdir, settings, progress=Progress()) as run:
        print(build(run, training, student, run.table("lists"), run.table("passages")))


if __name__ == "__main__":
    cli.app = lambda: main(*sys.argv[1:])  # type: ignore[assignment]
    cli.main()
