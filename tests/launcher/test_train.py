"""`listwise train` trains a student on lists: as ranks of srun without Ray, and on Ray from the tables of a run."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from launcher import train
from tests.corpus import ASPECTS, PLACES, QUERIES
from tests.distill.list_tables import write_run
from tests.distill.ranks import free_port

SMALL = ["training.queries_per_step=24", "training.epochs=1", "training.list_length=6", "training.trackers=[]",
         "training.micro_batch_tokens=1024", "student.max_passage_tokens=64", "training.dtype=float32"]  # fmt: skip
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from launcher.cli import main; main()"


def write_lists(file: Path) -> Path:
    """Writes a list for each of the hundred passages, with scores of a teacher that knows towns and aspects."""
    random = np.random.default_rng(1)
    texts = [template.format(*place) for place in PLACES for template in ASPECTS]
    lines = []
    for row in range(100):
        others = random.choice([other for other in range(100) if other != row], 5, replace=False)
        scores = [10.0, *(4.0 if other // 5 == row // 5 else random.normal() for other in others)]
        passages = [
            {"docid": f"p{other}", "title": PLACES[other // 5][0], "text": texts[other], "score": float(score)}
            for other, score in zip([row, *others.tolist()], scores, strict=True)
        ]
        lines.append({"query": QUERIES[row % 5].format(*PLACES[row // 5]), "passages": passages})
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    return file


def command(lists: Path, student: str, output: Path, *more: str) -> list[str]:
    changes = [word for change in SMALL for word in ("--set", change)]
    return ["train", "--lists", str(lists), "--student", student, "--output", str(output), *changes, *more]


def test_two_tasks_of_srun_train_from_a_file_without_ray(tiny_encoder, tmp_path):
    lists, port = write_lists(tmp_path / "lists.jsonl.gz"), free_port()
    arguments = command(lists, tiny_encoder, tmp_path / "out")
    tasks = []
    for task in range(2):
        slurm = {"SLURM_PROCID": task, "SLURM_NTASKS": 2, "SLURM_LOCALID": task, "SLURM_STEP_NUM_TASKS": 2}
        network = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1, "GLOO_SOCKET_IFNAME": "lo"}
        environment = {**os.environ, **{key: str(value) for key, value in (slurm | network).items()}}
        call = [sys.executable, "-c", WITHOUT_RAY, *arguments]
        tasks.append(subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    done = [task.communicate(timeout=240) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], done
    assert f"Model: {tmp_path / 'out' / 'model'}" in done[0][0]
    lines = [json.loads(line) for line in (tmp_path / "out" / "training" / "metrics.jsonl").read_text().splitlines()]
    assert any("dev_ndcg@10" in line for line in lines) and any("loss" in line for line in lines)
    assert (tmp_path / "out" / "model" / "modules.json").exists()


def test_ranks_of_torchrun_whose_terminal_is_closed_end_their_step_and_leave_a_checkpoint(tiny_encoder, tmp_path):
    """The lines of the training can be written no more either; that ends no rank."""
    lists, output = write_lists(tmp_path / "lists.jsonl.gz"), tmp_path / "out"
    arguments = command(lists, tiny_encoder, output, "--set", "training.epochs=500", "--set", "training.patience=10000")
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
              f"--master-port={free_port()}", "-m", "launcher.cli", *arguments]  # fmt: skip
    master, terminal = pty.openpty()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path.cwd())}
    running = subprocess.Popen(
        launch, env=environment, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509, one call of the system
    )  # fmt: skip
    os.close(terminal)
    metrics, limit = output / "training" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and '"loss"' in metrics.read_text()):
        assert running.poll() is None and time.monotonic() < limit
        if select.select([master], [], [], 0.1)[0]:
            os.read(master, 65536)
    os.close(master)  # as when the connection of ssh is lost
    running.wait(60)
    while time.monotonic() < limit and not (kept := sorted((output / "training" / "checkpoints").glob("step-*"))):
        time.sleep(0.1)
    last = json.loads(metrics.read_text().splitlines()[-1])
    assert [int(folder.name.removeprefix("step-")) for folder in kept] == [last["step"]]


def test_ray_trains_from_the_tables_of_a_run_into_another_folder(tiny_encoder, tmp_path, local_ray):
    write_run(tmp_path / "run")
    options = train.read_options(tiny_encoder, 2, 0.1, [*SMALL, "training.max_steps=2", "training.loss=margin_mse"])
    record = train.train_on_ray(str(tmp_path / "run"), tmp_path / "out", options)
    assert (record["steps"], record["world_size"]) == (2, 2)
    assert Path(record["model"]) == tmp_path / "out" / "model"
    assert (tmp_path / "out" / "model" / "modules.json").exists()
    assert not (tmp_path / "run" / "training").exists(), "the run is only read"
    assert train.train_on_ray(str(tmp_path / "run"), tmp_path / "out", options) == record, (
        "a finished training does not run again"
    )


@pytest.mark.parametrize(
    ("lists", "options", "message"),
    [
        ("missing.jsonl", [], "--lists missing.jsonl: cannot be read"),
        ("run", [], "the table `lists` does not exist or is not finished"),
        (".", [], "lists.jsonl, line 1, column 10: not JSON"),
        ("lists.jsonl", [], "lists.jsonl, line 1, column 10: not JSON"),
        ("lists.jsonl", ["--set", "training.learning_rat=1"], "did you mean `training.learning_rate`?"),
        ("lists.jsonl", ["--set", "training.loss=mse"], "--set training.loss=mse: `training.loss` is 'mse'"),
    ],
)  # fmt: skip
def test_mistakes_end_with_one_message_and_exit_code_2(lists, options, message, tiny_encoder, tmp_path):
    (tmp_path / "lists.jsonl").write_text('{"query": \n')
    (tmp_path / "run" / "training").mkdir(parents=True)
    (tmp_path / "run" / "recipe.yaml").write_text("name: begun\n")
    (tmp_path / "run" / "training" / "metrics.jsonl").write_text("{}\n")
    call = [
        sys.executable,
        "-m",
        "launcher.cli",
        "train",
        "--lists",
        lists,
        "--student",
        tiny_encoder,
        "--output",
        "out",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([*call, *options], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_tasks_of_srun_that_cannot_find_each_other_get_the_remedy(monkeypatch):
    from cluster.errors import InputError

    for name in ("RANK", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    assert not train.is_rank()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.setenv("SLURM_PROCID", "1")
    with pytest.raises(InputError, match="export MASTER_ADDR="):
        train.is_rank()
    monkeypatch.setenv("MASTER_ADDR", "node1")
    assert train.is_rank()


def test_no_file_of_a_person_and_no_table_of_a_run_is_replaced(tmp_path):
    lists, mine = write_lists(tmp_path / "lists.jsonl"), tmp_path / "mine"
    (mine / "model").mkdir(parents=True)
    (mine / "model" / "weights.safetensors").write_text("mine")
    for name in ("training", "lists"):
        (tmp_path / name / name).mkdir(parents=True)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "model").symlink_to(mine / "model")
    for output, held in ((mine, "model"), (tmp_path / "training", "training"), (tmp_path / "lists", "lists"),
                         (tmp_path / "link", "model")):  # fmt: skip
        with pytest.raises(InputError, match=f"--output {output} holds {held}, which no training has made"):
            train.prepare_tables(str(lists), output, 0.1)
    assert (mine / "model" / "weights.safetensors").read_text() == "mine"
    write_run(tmp_path / "run")
    (tmp_path / "run" / "versions.json").write_text("{}")
    with pytest.raises(InputError, match="this is the workdir of a run, whose passages and lists would be replaced"):
        train.prepare_tables(str(lists), tmp_path / "run", 0.1)
    assert train.prepare_tables(str(tmp_path / "run"), tmp_path / "run", 0.1) == str(tmp_path / "run"), "its own lists"
    assert train.prepare_tables(str(lists), tmp_path / "new", 0.1) == str(tmp_path / "new")
    (tmp_path / "new" / "training" / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "new" / "model").mkdir()
    assert train.prepare_tables(str(lists), tmp_path / "new", 0.1) == str(tmp_path / "new"), "a training that continues"
