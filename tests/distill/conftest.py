"""A run whose texts are embedded, for the tests of retrieval, teachers and lists; a student of each architecture."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables.table import Table
from cluster.watch.progress import Progress
from distill.retrieval import candidates, embeddings
from distill.retrieval.embeddings import Vectors
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.retrieval import RetrievalSettings, RetrieverSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers import scores
from tests.distill.run_tables import write_log, write_passages, write_queries
from tests.distill.students import save_modernbert, save_qwen3, save_roberta

POOL = PoolSettings(workers=1)  # importing what embeds takes it longer than a hundred passages
SAVED: dict[str, Callable[[Path], str]] = {"modernbert": save_modernbert, "qwen3": save_qwen3, "roberta": save_roberta}


class Retrieved(NamedTuple):
    """A run on the hundred passages, a query for each of them, and three logged queries."""

    run: Run
    passages: Table
    queries: list[Table]
    vectors: Vectors
    encoder: EncoderSettings


def open_run(folder: Path) -> Run:
    settings = ClusterSettings(cpus=2, io_pool=POOL, wait_timeout_s=60.0, shard_timeout_s=120.0)
    return Run(str(folder), settings, progress=Progress(quiet=True))


def embed(run: Run, model: str) -> Retrieved:
    """Embeds all texts of a run, unless that is done."""
    encoder = EncoderSettings(model=model, dtype="float32")
    passages, queries = run.table("passages"), [run.table("queries"), run.table("query_log")]
    return Retrieved(run, passages, queries, embeddings.build(run, "tiny", encoder, POOL, passages, queries), encoder)


@pytest.fixture(scope="session")
def embedded(tiny_encoder: str, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run whose texts are embedded; for reading only."""
    folder = tmp_path_factory.mktemp("embedded")
    with open_run(folder) as run:
        for write in (write_passages, write_queries, write_log):
            write(run)
        embed(run, tiny_encoder)
    return folder


@pytest.fixture(scope="module")
def retrieved(embedded: Path, tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrieved]:
    """The same run in a folder of the module's own."""
    folder = tmp_path_factory.mktemp("retrieved")
    shutil.copytree(embedded, folder, dirs_exist_ok=True)
    with open_run(folder) as run:
        yield embed(run, tiny_encoder)


BM25 = TeacherSettings(kind="bm25", rows_per_shard=40, weight=0.02, pool=POOL)

RETRIEVAL = RetrievalSettings(
    retrievers={"tiny": RetrieverSettings(kind="dense"), "bm25": RetrieverSettings(kind="bm25")},
    depth=40,
    round_trip_rank=20,
    rows_per_shard=30,
)


@pytest.fixture(scope="module")
def proposed(retrieved: Retrieved) -> Table:
    vectors = {"tiny": retrieved.vectors}
    return candidates.build(retrieved.run, RETRIEVAL, vectors, retrieved.passages, retrieved.queries)


@pytest.fixture(scope="module")
def scored(retrieved: Retrieved, proposed: Table, reranker: TeacherSettings) -> dict[str, Table]:
    run, passages, _, vectors, encoder = retrieved
    teachers = {
        "bm25": BM25,
        "reranker": reranker,
        "dense": TeacherSettings(kind="bi_encoder", rows_per_shard=30, pool=POOL),
    }
    return {
        name: scores.build(run, name, teacher, encoder, proposed, passages, RETRIEVAL, {"tiny": vectors})
        for name, teacher in teachers.items()
    }


@pytest.fixture(scope="module")
def reranker(tiny_reranker: str) -> TeacherSettings:
    return TeacherSettings(
        kind="cross_encoder", model=tiny_reranker, max_tokens=64, dtype="float32", rows_per_shard=30, pool=POOL
    )


@pytest.fixture(params=["bert", *SAVED])
def student(request, tiny_encoder, tmp_path):
    """A student, tokens of its passages, its token of padding."""
    import torch

    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.encoders.reading import Reading
    from distill.encoders.tokens import TokenFile, write_tokens
    from tests.distill.training.test_step import problem

    path = tiny_encoder if request.param == "bert" else SAVED[request.param](tmp_path)
    model = load_model(StudentSettings(model=path, max_passage_tokens=48, dtype="float32"), "cpu")
    write_tokens(tmp_path / "passages", problem()[1], Reading(model, "document", 48).token_ids)
    return EncoderModule(model, "cpu", torch.float32), TokenFile(tmp_path / "passages"), model.tokenizer.pad_token_id
