"""The training loop on real ranks: it learns, resumes exactly, refuses what does not fit, exports what it trained."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError, RunError
from distill.settings.encoders import LoraSettings, StudentSettings
from distill.settings.training import TrainingSettings
from tests.distill.list_tables import write_run
from tests.distill.ranks import free_port, on_ranks


def make_job(workdir: Path, encoder: str, **training):
    from distill.training.job import TrainingJob

    settings = {
        "queries_per_step": 24, "list_length": 8, "epochs": 4, "learning_rate": 2e-3, "warmup_steps": 2,
        "micro_batch_tokens": 1024, "dtype": "float32", "trackers": [], "patience": 10, "evaluate_every": 3,
    } | training  # fmt: skip
    return TrainingJob(
        TrainingSettings(**settings), StudentSettings(model=encoder, max_query_tokens=32, max_passage_tokens=64),
        str(workdir), str(workdir / "training"), str(workdir / "model"),
    )  # fmt: skip


def train_rank(rank: int, world_size: int, job: str, stop_after: int | None = None):
    """Trains on one rank; `stop_after` kills the process without warning after that many steps."""
    import torch.distributed as dist

    from distill.training.job import TrainingJob
    from distill.training.trainer import train

    def watch(record):
        if stop_after is not None and record.get("step") == stop_after and "loss" in record:
            os.kill(os.getpid(), signal.SIGKILL)

    record = train(TrainingJob.from_json(job), on_record=watch)
    dist.destroy_process_group()
    return record


def train_and_listen(rank: int, world_size: int, job: str) -> list[str]:
    """Trains on one rank; what rank 0 had to say before its first step."""
    import torch.distributed as dist

    from distill.training.job import TrainingJob
    from distill.training.trainer import train

    notes: list[str] = []
    train(
        TrainingJob.from_json(job), on_record=lambda record: notes.append(record["note"]) if "note" in record else None
    )
    dist.destroy_process_group()
    return notes


def continue_in_turn(rank: int, world_size: int, chain: list[tuple[str, Path, Path]]) -> None:
    """Runs trainings one after the other, each from a checkpoint of the one before."""
    import torch.distributed as dist

    from distill.training.job import TrainingJob
    from distill.training.process_group import join_ranks
    from distill.training.trainer import train

    join_ranks("cpu")
    for job, source, target in chain:
        if rank == 0:  # the newest checkpoint and those before it, one of which is the best
            later = [path.name for path in source.parent.iterdir() if path.name > source.name]
            shutil.copytree(source.parent, target.parent, ignore=shutil.ignore_patterns(*later))
        dist.barrier()
        train(TrainingJob.from_json(job))
    dist.destroy_process_group()


def stop_thrice(rank: int, world_size: int, job: str) -> list[str]:
    """Trains until asked by two signals and by the file in turn, then to the end; what was said on the way."""
    import torch.distributed as dist

    from distill.training.job import TrainingJob
    from distill.training.process_group import join_ranks
    from distill.training.stop import TrainingStopped, stop_file
    from distill.training.trainer import train

    join_ranks("cpu")
    job, said = TrainingJob.from_json(job), []
    ask_file = stop_file(Path(job.output))  # gone when it was heard
    asks = {
        3: lambda: os.kill(os.getpid(), signal.SIGUSR1),
        5: lambda: os.kill(os.getpid(), signal.SIGHUP),
        7: ask_file.touch,
    }

    def watch(record):
        if "loss" in record and record["step"] in asks:
            asks[record["step"]]()

    for _ in range(3):
        try:
            train(job, on_record=watch)
        except TrainingStopped as stopped:
            said.append(str(stopped))
    train(job)
    dist.destroy_process_group()
    return said


def metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "training" / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in metrics(workdir) if "loss" in line}


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(next(folder.rglob("model.safetensors")))


@pytest.fixture(scope="module")
def trained(tiny_encoder, tmp_path_factory):
    """Two DeepSpeed ranks, twelve steps."""
    workdir = tmp_path_factory.mktemp("trained")
    write_run(workdir)
    job = make_job(workdir, tiny_encoder, checkpoint_every=1, keep_checkpoints=20)
    records = on_ranks(train_rank, 2, job.to_json())
    return workdir, records


def test_two_ranks_learn_the_lists_and_agree(trained):
    workdir, records = trained
    assert records[0] == records[1]
    assert records[0]["steps"] == 12
    found = losses(workdir)
    assert found[12] < 0.7 * found[1]
    assert records[0]["dev"]["dev_loss"] < 0.7 * records[0]["base_dev"]["dev_loss"]


def test_every_step_encodes_each_passage_once(trained):
    for line in metrics(trained[0]):
        if "loss" in line:
            assert line["repeats"] >= 0.8 * 24 * 8 / 100
            assert line["gradient_norm"] > 0


def test_exported_student_is_the_best_checkpoint(trained, tiny_encoder):
    workdir, records = trained
    best = weights(workdir / "training" / "checkpoints" / f"step-{records[0]['best_step']:08d}")
    exported = weights(workdir / "model")
    assert exported
    for name, tensor in exported.items():
        stored = [value for key, value in best.items() if key.endswith(name)]
        assert any(np.array_equal(tensor, each) for each in stored), name


def test_killed_training_continues_to_the_same_weights(tiny_encoder, tmp_path):
    """SIGKILL after the fifth step's metrics, before its checkpoint: step five is done again, from step four."""
    for name in ("whole", "killed"):
        write_run(tmp_path / name)
    jobs = {name: make_job(tmp_path / name, tiny_encoder, checkpoint_every=2, epochs=2) for name in ("whole", "killed")}
    on_ranks(train_rank, 1, jobs["whole"].to_json())
    script = (
        "import sys; from tests.distill.training.test_trainer import train_rank; "
        "train_rank(0, 1, sys.argv[1], int(sys.argv[2]))"
    )
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as the ranks: the order of sums is part of the bits
    command = [sys.executable, "-c", script, jobs["killed"].to_json(), "5"]
    killed = subprocess.run(command, cwd=Path.cwd(), env=one_thread, timeout=240, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model").exists()
    on_ranks(train_rank, 1, jobs["killed"].to_json())
    expected, found = (weights(tmp_path / name / "model") for name in ("whole", "killed"))
    for name, tensor in expected.items():
        assert np.array_equal(tensor, found[name]), name


def test_ranks_that_are_asked_to_stop_leave_a_checkpoint_and_continue_to_the_same_weights(
    trained, tiny_encoder, tmp_path
):
    """Only rank 0 is asked, after steps 3 and 7; both ranks finish the step that has begun."""
    write_run(tmp_path)
    said = on_ranks(stop_thrice, 2, make_job(tmp_path, tiny_encoder, keep_checkpoints=20).to_json())
    assert said[0] == said[1]
    assert [f"step {step} of 12" in words for step, words in zip((4, 6, 8), said[0], strict=True)] == [True] * 3
    steps = [line["step"] for line in metrics(tmp_path) if "loss" in line]
    assert steps == list(range(1, 13)), "no step was done twice"
    expected, found = (weights(folder / "model") for folder in (trained[0], tmp_path))
    for name, tensor in expected.items():
        assert np.array_equal(tensor, found[name]), name


def test_a_damaged_checkpoint_is_said_and_the_one_before_leads_to_the_same_weights(trained, tiny_encoder, tmp_path):
    workdir, _ = trained
    kept = tmp_path / "run" / "training" / "checkpoints"
    shutil.copytree(workdir, tmp_path / "run", ignore=shutil.ignore_patterns("model", "step-*1[12]"))
    damaged = kept / "step-00000010" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-100])
    job = make_job(tmp_path / "run", tiny_encoder, checkpoint_every=1, keep_checkpoints=20)
    notes, _ = on_ranks(train_and_listen, 2, job.to_json())
    assert "step-00000010 is damaged: model.safetensors" in notes[0]
    assert notes[1] == "Training continues from step-00000009."
    assert (kept / "damaged-00000010").is_dir()
    again, before = weights(kept / "step-00000012"), weights(workdir / "training" / "checkpoints" / "step-00000012")
    assert all(np.array_equal(again[name], before[name]) for name in before)


def test_checkpoints_are_written_by_time_too_and_all_ranks_take_part(tiny_encoder, tmp_path):
    write_run(tmp_path)
    job = make_job(tmp_path, tiny_encoder, evaluate_every=1000, keep_checkpoints=100, checkpoint_minutes=1e-6, epochs=8)
    (record, _) = on_ranks(train_rank, 2, job.to_json())
    kept = {path.name for path in (tmp_path / "training" / "checkpoints").iterdir()}
    assert f"step-{record['steps']:08d}" in kept
    assert len(kept) > 1, "no other rule asks for one before the last step"


def test_other_world_size_and_zero_stage_continue_the_same_curve(trained, tiny_encoder, tmp_path):
    """A checkpoint of two ranks, continued by three under ZeRO 1, that one's under ZeRO 2, then 3, then 0."""
    workdir, _ = trained
    chain, before, first = [], workdir, 6
    for zero_stage in (1, 2, 3, 0):
        folder = tmp_path / str(zero_stage)
        for table in ("lists", "passages"):
            shutil.copytree(workdir / table, folder / table)
        how = {"zero_stage": zero_stage, "micro_batch_tokens": 600, "ranks": 3}
        job = make_job(folder, tiny_encoder, checkpoint_every=1, keep_checkpoints=20, **how).to_json()
        step = Path("training", "checkpoints", f"step-{first:08d}")
        chain.append((job, before / step, folder / step))
        before, first = folder, first + 1
    on_ranks(continue_in_turn, 3, chain)
    expected = losses(workdir)
    for first, zero_stage in enumerate((1, 2, 3, 0), start=7):
        found = losses(tmp_path / str(zero_stage))
        assert sorted(found) == list(range(first, 13))
        for step, loss in found.items():
            assert loss == pytest.approx(expected[step], rel=1e-4), (zero_stage, step)


def held_while_training(rank: int, world_size: int, job: str) -> tuple[list[int], list[int]]:
    """Bytes that the step's arena had, after each step and when each evaluation began."""
    import gc

    from distill.activations.arena import Arena
    from distill.training.dev_evaluation import DevEvaluator
    from distill.training.job import TrainingJob
    from distill.training.trainer import train

    def held() -> int:
        return sum(each.size for each in gc.get_objects() if isinstance(each, Arena))

    steps, evaluations, evaluate = [], [], DevEvaluator.__call__

    def watched(*args):
        evaluations.append(held())
        return evaluate(*args)

    DevEvaluator.__call__ = watched
    train(TrainingJob.from_json(job), on_record=lambda record: steps.append(held()) if "loss" in record else None)
    return steps, evaluations


def test_an_evaluation_has_the_memory_that_steps_hold(tiny_encoder, tmp_path):
    write_run(tmp_path)
    job = make_job(tmp_path, tiny_encoder, activation_mib=1, max_steps=3, evaluate_every=2)
    ((steps, evaluations),) = on_ranks(held_while_training, 1, job.to_json())
    assert len(steps) == 3 and all(2**18 < held <= 2**21 for held in steps)
    assert evaluations == [0, 0, 0], "before, in the middle, at the end"


def test_checkpoint_of_another_recipe_is_refused_with_the_difference(trained, tiny_encoder):
    workdir, _ = trained
    job = make_job(workdir, tiny_encoder, checkpoint_every=1, keep_checkpoints=20, learning_rate=1e-5)
    with pytest.raises(AssertionError, match=r"training\.learning_rate: was 0\.002, is 1e-05"):
        on_ranks(train_rank, 1, job.to_json())


def test_checkpoint_of_another_student_or_other_lists_is_refused_with_the_difference(trained):
    from distill.training.checkpoints import read_state

    folder = trained[0] / "training" / "checkpoints" / "step-00000006"
    identity = json.loads((folder / "state.json").read_text())["identity"]
    identity["student"]["model"], identity["lists"] = "another-model", "another"
    with pytest.raises(
        InputError, match=r"(?s)lists: was .*, is \"another\".*student\.model: was .*is \"another-model\""
    ):
        read_state(folder, identity)


def test_more_ranks_than_queries_of_a_step_is_refused(tiny_encoder, tmp_path):
    write_run(tmp_path)
    with pytest.raises(AssertionError, match="cannot be dealt to 2 ranks"):
        on_ranks(train_rank, 2, make_job(tmp_path, tiny_encoder, queries_per_step=1).to_json())


def test_loss_that_is_no_number_stops_and_names_the_queries(tiny_encoder, tmp_path):
    """A learning rate that throws the weights away: the run stops, the checkpoint before stays."""
    write_run(tmp_path)
    job = make_job(tmp_path, tiny_encoder, learning_rate=1e8, warmup_steps=0, checkpoint_every=1, evaluate_every=100)
    with pytest.raises(AssertionError, match=r"the last checkpoint stays\. The step's queries: q\d+"):
        on_ranks(train_rank, 1, job.to_json())
    (kept,) = (tmp_path / "training" / "checkpoints").glob("step-*")
    assert all(np.isfinite(tensor).all() for tensor in weights(kept).values())
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers_never_become_a_checkpoint(tiny_encoder, tmp_path):
    write_run(tmp_path)
    job = make_job(tmp_path, tiny_encoder, learning_rate=1e38, warmup_steps=0, checkpoint_every=1, evaluate_every=100)
    with pytest.raises(AssertionError, match=r"after step 1 the weights of .* are no numbers"):
        on_ranks(train_rank, 1, job.to_json())
    assert not list((tmp_path / "training").glob("checkpoints/step-*"))


def test_torchrun_trains_adapters_under_zero_3_and_exports_them_merged(tiny_encoder, tmp_path):
    """Two ranks that divide parameters between them end with the weights of one process that has all.

    And nothing is compiled for it: a machine need not have a compiler.
    """

    training = {"epochs": 1, "loss": "lambdaloss", "matryoshka": (8, 16)}
    lora = LoraSettings(rank=4)

    def adapted(folder):
        folder.mkdir()
        write_run(folder, dev=False)
        job = make_job(folder, tiny_encoder, **training)
        return replace(job, student=job.student.model_copy(update={"lora": lora}))

    (reference,) = on_ranks(train_rank, 1, adapted(tmp_path / "alone").to_json())
    together = tmp_path / "together"
    job = adapted(together)
    changes = {f"training.{name}": value for name, value in job.training.model_dump(exclude_unset=True).items()}
    changes |= {f"student.{name}": value for name, value in job.student.model_dump(exclude_unset=True).items()}
    changes |= {"training.zero_stage": 3, "student.lora": {"rank": 4}}
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1",
              f"--master-port={free_port()}", "-m", "launcher.cli", "train", "--lists", str(together),
              "--student", tiny_encoder, "--output", str(together),
              *(f"--set={name}={json.dumps(value)}" for name, value in changes.items())]  # fmt: skip
    compiled = tmp_path / "compiled"
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(compiled)}
    done = subprocess.run(launch, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert not compiled.exists()
    assert done.stdout.splitlines()[-1].startswith("4 steps. The model is that of step 4, the last; there were")
    assert (together / "model" / "modules.json").exists()
    kept = weights(together / "training" / "checkpoints" / "step-00000004")
    assert kept and all("lora_" in key for key in kept)
    assert all(line["lambdaloss"] > 0 for line in metrics(together) if "loss" in line)
    base, exported = weights(Path(tiny_encoder)), weights(together / "model")
    wanted = weights(Path(reference["model"]))
    assert base.keys() == exported.keys() == wanted.keys()
    moved = [key for key in base if not np.array_equal(base[key], wanted[key])]
    assert moved
    for key in moved:
        step = np.abs(wanted[key] - base[key]).max()
        assert np.abs(exported[key] - wanted[key]).max() < 1e-3 * step, key


def test_ray_train_places_two_deepspeed_ranks(run, tiny_encoder, tmp_path):
    from distill.training.stage import build

    work = run("ray")
    write_run(Path(work.storage.local_path))
    job = make_job(tmp_path, tiny_encoder, epochs=2, ranks=2, trackers=["tensorboard"])
    begun = time.monotonic()
    record = build(work, job.training, job.student, work.table("lists"), work.table("passages"))
    first = time.monotonic() - begun
    assert record["world_size"] == 2
    assert record["steps"] == 6
    assert list(Path(work.storage.local_path).glob("training/tensorboard/**/events*"))
    begun = time.monotonic()
    assert build(work, job.training, job.student, work.table("lists"), work.table("passages")) == record
    assert time.monotonic() - begun < first / 4


@pytest.mark.cluster
def test_what_ends_one_rank_alone_ends_the_training_with_its_message(run, tiny_encoder, tmp_path):
    """Rank 0 finds a damaged file of passages while rank 1 waits for it in a barrier, for half an hour if it must."""
    from distill.training.stage import build

    work = run("ray")
    write_run(Path(work.storage.local_path))
    passages = work.table("passages")
    Path(work.storage.local_path, passages.files()[0][0]).write_bytes(b"something else")
    job = make_job(tmp_path, tiny_encoder, ranks=2)
    with pytest.raises(RunError, match=passages.files()[0][0]):
        build(work, job.training, job.student, work.table("lists"), passages)
