"""A run whose texts are embedded, shared by the tests of retrieval, teachers and lists."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from cluster.run import Run
from cluster.settings import ClusterSettings, PoolSettings
from cluster.tables import Table
from cluster.watch.progress import Progress
from distill import embeddings
from distill.embeddings import Vectors
from distill.settings import EncoderSettings
from tests.distill.tables import write_log, write_passages, write_queries

POOL = PoolSettings(workers=2)


class Retrieved(NamedTuple):
    """A run on the hundred passages, a query for each of them, and three logged queries."""

    run: Run
    passages: Table
    queries: list[Table]
    vectors: Vectors
    encoder: EncoderSettings


@pytest.fixture(scope="module")
def retrieved(tiny_encoder: str, local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Retrieved]:
    settings = ClusterSettings(cpus=2, io_pool=POOL, wait_timeout_s=60.0, shard_timeout_s=120.0)
    with Run(str(tmp_path_factory.mktemp("retrieved")), settings, progress=Progress(quiet=True)) as run:
        encoder = EncoderSettings(model=tiny_encoder, dtype="float32")
        passages, queries = write_passages(run), [write_queries(run), write_log(run)]
        vectors = embeddings.build(run, "tiny", encoder, POOL, passages, queries)
        yield Retrieved(run, passages, queries, vectors, encoder)
