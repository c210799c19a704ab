"""What a stage holds it uses: the processor time of every thread, read from outside while a small stage runs.

Two threads of one process that both work hard show that it computes on two cores. Beside another test they do not: a
thread that gets no core does no work, and the other one waits for it. So these tests run when nothing else does.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from cluster.run import Run
from cluster.schemas import CANDIDATES, LISTS, PASSAGES
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.table import Table
from cluster.watch.progress import Progress
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.retrieval import RetrievalSettings
from distill.settings.teachers import TeacherSettings
from distill.settings.training import TrainingSettings
from tests.distill.run_tables import write_table

pytestmark = pytest.mark.alone

MODEL = "all-MiniLM-L6-v2"
ALL = PoolSettings(workers=1, cpus=2)
PASSAGE = (
    "the keeper of the {0} light walks to the {0} pier and mends the nets of {0} boats before the {0} tide turns. "
)
HARD = 0.2  # of the time of the busiest thread, which also imports, loads and reads
HARD_S = 0.5  # and at least so long
LEAST_S = 1.0  # of the busiest thread of a process that works
REPEATED_S = 4.0  # for which work is repeated that is short on a fast machine


class Threads:
    """Seconds of processor time of every thread, by process, of all processes that this one has started."""

    def __init__(self) -> None:
        self.seconds: dict[int, dict[int, float]] = {}

    def look(self) -> None:
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            try:
                for thread in process.threads():
                    of_process = self.seconds.setdefault(process.pid, {})
                    of_process[thread.id] = thread.user_time + thread.system_time
            except psutil.Error:
                continue

    def since(self, before: Threads) -> dict[int, list[float]]:
        """Seconds of each process that worked, the busiest thread first."""
        grown = {
            pid: sorted(
                (took - before.seconds.get(pid, {}).get(one, 0.0) for one, took in threads.items()), reverse=True
            )
            for pid, threads in self.seconds.items()
        }
        return {pid: took for pid, took in grown.items() if took[0] >= LEAST_S}


@contextmanager
def watched() -> Iterator[dict[int, list[float]]]:
    """Reads the threads until the block ends; then the dictionary holds those of the processes that worked."""
    before, now, found, ended = Threads(), Threads(), dict[int, list[float]](), threading.Event()
    before.look()

    def read() -> None:
        while not ended.wait(0.2):
            now.look()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield found
    finally:
        ended.set()
        reader.join()
        now.look()
        found |= now.since(before)


def hard_workers(seconds: dict[int, list[float]]) -> int:
    """The most threads of one process that work hard."""
    return max(
        (sum(took >= max(HARD_S, HARD * threads[0]) for took in threads) for threads in seconds.values()), default=0
    )


@pytest.fixture(scope="module")
def run(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A thousand passages of some sixty tokens."""
    rows = [
        {"passage_id": f"p{number}", "title": "", "text": PASSAGE.format(f"number {number}") * 2, "is_source": True}
        for number in range(1000)
    ]
    settings = ClusterSettings(cpus=2, wait_timeout_s=60.0, shard_timeout_s=240.0)
    with Run(str(tmp_path_factory.mktemp("run")), settings, progress=Progress(quiet=True)) as opened:
        write_table(opened, PASSAGES, rows, files=1)
        yield opened


def embed(run: Run) -> None:
    from distill.retrieval import embeddings

    embeddings.embed_passages(run, "embeddings/all", "all", EncoderSettings(model=MODEL), ALL, run.table("passages"))


def rerank(run: Run) -> None:
    from benchmarks.scoring import save_classifier
    from distill.teachers import scores

    rows = [
        {
            "query_id": f"q{number}", "source_id": None, "query_type": "log", "text": f"light number {number}",
            "passage_ids": [f"p{row}" for row in range(40)], "passage_rows": list(range(40)), "fused": [0.0] * 40,
            "second_source_id": None,
        }
        for number in range(20)
    ]  # fmt: skip
    found = write_table(run, CANDIDATES, rows, files=1)
    model = save_classifier(MODEL, Path(run.storage.url) / "reranker")
    teacher = TeacherSettings(kind="cross_encoder", model=model, pool=ALL)
    encoder = EncoderSettings(model=MODEL)
    scores.build(run, "all", teacher, encoder, found, run.table("passages"), RetrievalSettings(), {})


def train(run: Run) -> None:
    from distill.training import stage

    rows = [
        {
            "query_id": f"q{number}", "query_type": "log", "text": f"light number {number}",
            "passage_rows": [(7 * number + place) % 400 for place in range(5)],
            "scores": np.linspace(1, 0, 5).tolist(), "split": "train", "dev_rows": [], "dev_scores": [],
        }
        for number in range(24)
    ]  # fmt: skip
    lists = write_table(run, LISTS, rows, files=1)
    training = TrainingSettings(
        queries_per_step=8, list_length=5, max_steps=3, epochs=1, trackers=[], evaluate_every=100, warmup_steps=0
    )
    student = StudentSettings(model=MODEL, max_query_tokens=16, max_passage_tokens=128)
    stage.build(run, training, student, lists, run.table("passages"))


def search(run: Run) -> None:
    """As a worker of candidates does it, in this process."""
    from distill.retrieval.search import Block
    from distill.retrieval.search import search as exact

    dice = np.random.default_rng(0)
    vectors = dice.standard_normal((60_000, 384), dtype=np.float32)
    queries = dice.standard_normal((1_500, 384), dtype=np.float32)
    begun = time.monotonic()
    while time.monotonic() - begun < REPEATED_S:
        exact(queries, [Block.of(np.arange(len(vectors), dtype=np.int64), vectors)], 50)


def evaluate(run: Run) -> None:
    """As the driver does it, in this process."""
    from distill.encoders.encoder import Encoder

    texts = run.table("passages").read(["text"]).column(0).to_pylist()
    encoder, begun = Encoder(EncoderSettings(model=MODEL)), time.monotonic()
    while time.monotonic() - begun < REPEATED_S:
        encoder.encode_passages([""] * 200, texts[:200])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [embed, rerank, train, search, evaluate], ids=lambda kind: kind.__name__)
def test_what_computes_does_it_on_all_cores_that_it_holds(run: Run, kind: Callable[[Run], None]) -> None:
    if (os.cpu_count() or 1) < 2:
        pytest.fail("two cores are needed to see whether both are used")
    with watched() as seconds:
        kind(run)
    assert hard_workers(seconds) >= 2, seconds


@pytest.mark.slow
def test_stages_of_one_thread_have_a_worker_for_every_core(run: Run) -> None:
    from generation import queries
    from generation.settings import GenerationSettings

    table = queries.build(run, GenerationSettings(engine="extractive", rows_per_shard=20), run.table("passages"))
    assert isinstance(table, Table)
    assert len({commit.worker for commit in table.commits()}) == 2


def test_a_second_thread_that_only_waits_is_no_work() -> None:
    assert hard_workers({1: [5.0, 0.3, 0.0], 2: [1.2, 0.2]}) == 1
    assert hard_workers({1: [5.0, 0.3], 2: [1.2, 1.0]}) == 2
    assert hard_workers({}) == 0
