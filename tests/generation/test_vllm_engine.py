"""The real vLLM engine on CPU, with a tiny random Llama: loading takes most of the time."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cluster.errors import InputError, RunError
from cluster.machines.vllm import CPU_CACHE_BYTES
from cluster.schemas import PASSAGES
from cluster.settings import PoolSettings
from generation import queries
from generation.engines import vllm_start
from generation.engines.style import refuse_missing_template
from generation.engines.vllm_start import engine_arguments, start
from generation.settings import QUERY_TYPES, GenerationSettings
from generation.type_figures import PASSAGE_CUT
from tests import traps
from tests.chaos.ledger import note
from tests.corpus import ASPECTS, PLACES
from tests.dice import throw
from tests.tables import write_table

SOURCES = 40
UNITS = SOURCES * len(QUERY_TYPES)


def settings(model: str, **more) -> GenerationSettings:
    wanted = {
        "max_model_len": 2048, "max_tokens": 16, "prompt_characters": 8000, "rows_per_shard": 4, "concurrency": 8,
        "prompt": "chat",
        "engine_args": {"enforce_eager": True}, "pool": PoolSettings(workers=1),
    }  # fmt: skip
    return GenerationSettings(engine="vllm", model=model, **(wanted | more))


def passages_in(workdir: str):
    rows = [
        {"passage_id": f"p{n}", "title": PLACES[n % 20][0], "text": ASPECTS[n % 5].format(*PLACES[n % 20])}
        for n in range(SOURCES)
    ]
    rows[7]["text"] = "7 3 1 " * 1300  # more tokens than the model can hold
    left_out = {"passage_id": "judged", "title": "", "text": "no source", "is_source": False}
    return write_table(workdir, PASSAGES, "passages", [*({**row, "is_source": True} for row in rows), left_out])


class Killer(threading.Thread):
    """Kills the engine's process, once, some time after the table has its first commit."""

    def __init__(self, storage, delay: float) -> None:
        super().__init__(daemon=True)
        self.storage = storage
        self.delay = delay
        self.killed: list[float] = []
        self.ended = threading.Event()

    def run(self) -> None:
        # looking through all processes takes longer than a shard, so the engine's is found before there is a commit
        engine = None
        while engine is None and not self.ended.wait(0.02):
            found = psutil.Process().children(recursive=True)
            engine = next((process for process in found if "EngineCore" in _name(process)), None)
        while engine and not self.ended.wait(0.005):
            if self.storage.list("queries/commits"):
                time.sleep(self.delay)
                engine.kill()
                self.killed.append(time.time())
                return


@contextlib.contextmanager
def written_to(file: Path) -> Iterator[None]:
    """What this process and its children write goes into a file, as in a worker of Ray."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with file.open("wb") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, before in zip((1, 2), kept, strict=True):
                os.dup2(before, descriptor)
                os.close(before)


def sockets() -> set[Path]:
    """Sockets that lie among the temporary files of all users."""
    return {path for path in Path(tempfile.gettempdir()).iterdir() if path.is_socket()}


def _name(process: psutil.Process) -> str:
    try:
        return " ".join([process.name(), *process.cmdline()])
    except psutil.Error:
        return ""


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(
    "killed", [False, pytest.param(True, marks=pytest.mark.cluster)], ids=["undisturbed", "killed"]
)
def test_every_unit_is_accounted_for_even_if_the_engine_is_killed_on_the_way(run, tiny_llama, killed):
    made = run(wait_timeout_s=200.0)
    passages = passages_in(made.storage.url)
    sockets_before = sockets()
    killer = Killer(made.storage, throw("vllm").uniform(0.0, 0.1))
    if killed:
        killer.start()

    table = queries.build(made, settings(tiny_llama), passages)

    killer.ended.set()
    if killed:
        killer.join()
    assert len(killer.killed) == killed
    assert sockets() <= sockets_before, "they lie in a folder of the worker, which the next one removes"
    assert max(commit.attempts for commit in table.commits()) == 1 + killed
    assert table.complete
    drops = [drop for commit in table.commits() for drop in commit.drops.items()]
    assert sum(commit.units for commit in table.commits()) == UNITS
    assert table.num_rows + sum(count for _, count in drops) == UNITS
    assert "prompt_too_long" not in dict(drops)
    assert sum(commit.stats.get(PASSAGE_CUT, 0) for commit in table.commits()) == len(QUERY_TYPES)
    assert sum(commit.tokens for commit in table.commits()) > 100 * table.num_rows
    rows = table.read().to_pylist()
    assert rows, "a random model writes hardly anything that the clean-up keeps"
    assert all(row["query_id"] == f"{row['source_id']}:{row['query_type']}:{row['sample']}" for row in rows)
    order = [int(row["source_id"][1:]) for row in rows]
    assert order == sorted(order)
    assert len({row["text"] for row in rows}) > len(rows) / 2  # sampled: not one answer for all
    folder = made.storage.local_path / "queries" / "commits"
    again = [next(folder.glob(f"{c.shard}.*")).stat().st_mtime for c in table.commits() if c.attempts == 2]
    if killed:
        note("vLLM engine's child process killed", max(again) - killer.killed[0])

    begun = time.monotonic()
    again = queries.build(made, settings(tiny_llama, concurrency=3), passages)
    assert again.fingerprint == table.fingerprint
    assert time.monotonic() - begun < 2.0  # no engine was loaded


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("model", "engine_args", "said"),
    [
        ("no-one/has-this-model", {}, "vLLM cannot load 'no-one/has-this-model'"),
        (None, {"gpu_memory": 1}, "gpu_memory"),
        (None, {"max_model_len": 100_000}, "vLLM cannot load"),
    ],
)
def test_what_the_recipe_gets_wrong_is_named_before_anything_is_loaded(
    own_environment, tiny_llama, model, engine_args, said
):
    with pytest.raises(InputError) as error:
        start(settings(model or tiny_llama, engine_args=engine_args))
    assert said in str(error.value)


@pytest.mark.vllm
def test_code_and_pickles_of_a_language_model_are_refused_and_not_run(own_environment, tiny_llama, tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(InputError, match="trust_remote_code"):
        start(settings(str(traps.with_code(Path(tiny_llama), tmp_path / "code", trace))))
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle"):
        start(settings(str(traps.pickled(Path(tiny_llama), tmp_path / "pickle", trace))))
    assert not trace.exists()


def test_arguments_that_would_read_pickles_or_run_code_unasked_are_refused(tmp_path):
    assert engine_arguments(settings(str(tmp_path)), is_cpu=True)["load_format"] == "safetensors"
    for name, value in (("load_format", "pt"), ("load_format", "auto"), ("trust_remote_code", True)):
        with pytest.raises(InputError, match=f"generation.engine_args.{name}"):
            engine_arguments(settings(str(tmp_path), engine_args={name: value}), is_cpu=True)


def test_a_path_that_is_no_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        engine_arguments(settings(str(tmp_path / "missing")), is_cpu=True)


def test_engine_arguments_of_the_recipe_win(tmp_path, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    arguments = engine_arguments(settings(str(tmp_path), max_model_len=None), is_cpu=True)
    assert arguments["kv_cache_memory_bytes"] == CPU_CACHE_BYTES
    assert arguments["trust_remote_code"] is False
    assert "max_model_len" not in arguments
    own = settings(str(tmp_path), engine_args={"kv_cache_memory_bytes": 5, "seed": 3}, tensor_parallel=2)
    arguments = engine_arguments(own, is_cpu=False)
    assert arguments["kv_cache_memory_bytes"] == 5
    assert arguments["seed"] == 3
    assert arguments["distributed_executor_backend"] == "mp"


@pytest.mark.parametrize(("config", "dtype"), [({}, "float32"), ({"quantization_config": {"bits": 4}}, None)])
def test_a_cpu_without_bfloat16_computes_in_float32(tmp_path, monkeypatch, config, dtype):
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(vllm_start, "has_bfloat16", lambda: False)
    assert engine_arguments(settings(str(tmp_path)), is_cpu=True).get("dtype") == dtype
    assert "dtype" not in engine_arguments(settings(str(tmp_path)), is_cpu=False)
    assert engine_arguments(settings(str(tmp_path), engine_args={"dtype": "auto"}), is_cpu=True)["dtype"] == "auto"
    monkeypatch.setattr(vllm_start, "has_bfloat16", lambda: True)
    assert "dtype" not in engine_arguments(settings(str(tmp_path)), is_cpu=True)


def test_an_engine_over_several_gpus_is_one_worker_that_holds_them():
    assert queries.place(settings("m", tensor_parallel=4, pool=PoolSettings(gpus=1))).gpus == 4
    assert queries.place(settings("m", pool=PoolSettings(gpus=1))).gpus == 1
    assert queries.place(settings("m", pool=PoolSettings(gpus=0.5))).gpus == 0.5


def test_a_model_without_a_chat_template_is_refused_for_chats_before_it_is_loaded(tiny_llama, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama, bare)
    (bare / "chat_template.jinja").unlink()
    refuse_missing_template(settings(tiny_llama, prompt="chat"))
    refuse_missing_template(settings(str(bare), prompt="auto"))
    with pytest.raises(InputError, match=r"generation.prompt is chat, and the model '.*bare' has no chat template"):
        refuse_missing_template(settings(str(bare), prompt="chat"))


@pytest.mark.vllm
@pytest.mark.slow
def test_an_engine_that_does_not_start_says_what_its_own_process_found(own_environment, tiny_llama, tmp_path):
    small = settings(tiny_llama, engine_args={"enforce_eager": True, "kv_cache_memory_bytes": 4096})
    with written_to(tmp_path / "log"), pytest.raises(RunError) as raised:
        start(small)
    said = str(raised.value)
    assert "ValueError: No available memory for the cache blocks" in said, said
    assert "lower generation.max_model_len" in said
