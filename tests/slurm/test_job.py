"""The scripts as text: the settings that the command fills in, the rest, and the recipes that it refuses."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.errors import InputError
from launcher.recipe import Recipe
from launcher.recipe_file import SHIPPED, load_recipe
from launcher.slurm.job import training_alone, whole_run
from launcher.slurm.request import Request, seconds_of
from launcher.slurm.script import END, RUN, TRAIN, fill_in
from launcher.train import read_options
from tests.pipeline import listwise

TWO = Request(nodes=2, gpus_per_node=0, time="12:00:00")
HOSTILE = 'it\'s a "$(touch broken)" `dir` \\ #1 %j ü'


def load(*changes: str) -> Recipe:
    return load_recipe("laptop", list(changes))


def filled(*changes: str, request: Request = TWO, until: str = "evaluation") -> str:
    return whole_run("laptop", load(*changes), changes, until, request).script


def setting(script: str, name: str) -> list[str]:
    """The values of an array in a script's settings, as bash reads them."""
    block = script[: script.index(END)]
    done = subprocess.run(
        ["bash", "-c", f'{block}\nprintf "%s\\0" "${{{name}[@]}}"'], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


# --- the text ---


@pytest.mark.parametrize("script", [RUN, TRAIN], ids=["run", "train"])
def test_the_command_writes_the_ready_script_with_other_settings_and_nothing_else(script: Path) -> None:
    text = script.read_text()
    assert fill_in(script, {}, {}) == text
    changed = fill_in(
        script, {"nodes": 7, "requeue": None, "qos": "long"}, {"command": ["echo", HOSTILE], "stop_s": "9"}
    )
    assert changed.partition(END)[2] == text.partition(END)[2]
    assert "#SBATCH --nodes=7\n" in changed
    assert "#SBATCH --qos=long\n" in changed
    assert "--requeue" not in changed
    assert changed.count("#SBATCH") == text.count("#SBATCH")
    assert setting(changed, "command") == ["echo", HOSTILE]
    assert setting(changed, "stop_s") == ["9"]


@pytest.mark.parametrize("script", [RUN, TRAIN], ids=["run", "train"])
def test_the_scripts_are_valid_bash(script: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.sbatch"
    for text in (script.read_text(), fill_in(script, {"job-name": HOSTILE}, {"command": ["echo", HOSTILE]})):
        file.write_text(text)
        subprocess.run(["bash", "-n", str(file)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", [RUN, TRAIN], ids=["run", "train"])
def test_shellcheck_finds_nothing_in_the_scripts(script: Path) -> None:
    unreachable = "SC2317"  # shellcheck does not see that traps and nodes call functions
    done = subprocess.run(
        ["shellcheck", f"--exclude={unreachable}", str(script)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_names_with_special_characters_reach_the_driver_unchanged(tmp_path: Path) -> None:
    recipe = tmp_path / f"{HOSTILE}.yaml"
    shutil.copy(SHIPPED / "laptop.yaml", recipe)
    changes = [f'workdir="{tmp_path}/it\'s a dir"', "corpus.path=here # there"]
    job = whole_run(str(recipe), load_recipe(str(recipe), changes), changes, "lists", TWO)
    words = setting(job.script, "command")
    assert words[:3] == ["listwise", "run", str(recipe)]
    assert words[-2:] == ["--until", "lists"]
    overrides = [word for option, word in itertools.pairwise(words) if option == "--set"]
    assert overrides == changes
    assert load_recipe(words[2], overrides).workdir == f"{tmp_path}/it's a dir"
    assert not Path("broken").exists()


def test_a_relative_workdir_becomes_absolute_and_a_note_says_so() -> None:
    job = whole_run("laptop", load("workdir=runs/a b"), ["workdir=runs/a b"], "evaluation", TWO)
    folder = str(Path.cwd() / "runs" / "a b")
    assert any(folder in note for note in job.notes)
    words = setting(job.script, "command")
    overrides = [word for option, word in itertools.pairwise(words) if option == "--set"]
    assert load_recipe("laptop", overrides).workdir == folder
    assert whole_run("laptop", load("workdir=/runs/a"), [], "evaluation", TWO).notes == []


def test_training_alone_gets_the_recipes_student_lists_and_training() -> None:
    changes = [
        "workdir=/runs/no", "student.model='on'", "student.query_prompt='q: '", "student.lora={rank: 4}",
        "training.learning_rate=1.0e-5", "training.matryoshka=[64, 128]", "training.trackers=[]", "training.ranks=6",
    ]  # fmt: skip
    recipe = load(*changes)
    job = training_alone(recipe, Request(2, 0, "2-0", cpus_per_node=12))
    words = setting(job.script, "command")
    assert words[:8] == ["listwise", "train", "--lists", "/runs/no", "--student", "on", "--output", "/runs/no"]
    options = read_options("on", None, 0.1, words[9::2])
    assert options.student == recipe.student
    assert options.training.identity() == recipe.training.identity()
    assert options.training.trackers == []
    for line in ("--ntasks-per-node=3", "--cpus-per-task=4"):
        assert f"#SBATCH {line}\n" in job.script
    on_gpus = training_alone(load("training.gpus_per_rank=1"), Request(2, 4, "2-0")).script
    for line in ("--ntasks-per-node=4", "--gpus-per-node=4", "--cpus-per-task=8"):
        assert f"#SBATCH {line}\n" in on_gpus


def test_containers_see_this_folder_the_workdir_and_the_nodes_disk(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    workdir = "workdir=/opt/not-there/run"
    with_pyxis = filled(workdir, request=Request(2, 8, "60", container="nvcr.io#nvidia/pytorch:26.01"))
    mounts = ",".join(f"{folder}:{folder}" for folder in ("/tmp", "/opt"))
    assert f"--container-mounts={mounts}" in setting(with_pyxis, "step_options")
    assert "--container-image=nvcr.io#nvidia/pytorch:26.01" in setting(with_pyxis, "step_options")
    with_apptainer = filled(workdir, request=Request(2, 8, "60", container="my image.sif"))
    assert setting(with_apptainer, "inside") == [
        "apptainer", "exec", "--nv", "--bind=/tmp", "--bind=/opt", "my image.sif",
    ]  # fmt: skip
    assert setting(with_apptainer, "programs") == [""]


@pytest.mark.parametrize(
    ("time", "seconds"),
    [("90", 5400), ("2:30", 150), ("12:00:00", 43200), ("1-12", 129600), ("1-2:30", 95400), ("1-0:0:30", 86430)],
)
def test_times_are_read_as_slurm_reads_them(time: str, seconds: int) -> None:
    assert seconds_of(time) == seconds


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "request_", "until", "message"),
    [
        ([], {"time": "2h"}, "evaluation", r"--time 2h: expected minutes, .* for example 90, 12:00:00 or 2-00:00:00"),
        ([], {"time": "1"}, "evaluation", "--time 1: a job of under two minutes"),
        (["workdir=s3://bucket/run"], {}, "evaluation", r"workdir 's3://bucket/run': training needs a folder.*lists"),
        (["teachers.bm25.pool.gpus=2"], {"gpus_per_node": 1}, "lists",
         r"stage scores \(bm25\): each worker wants 2 GPUs, and a node of this job has 1. Raise --gpus-per-node"),
        (["generation.pool.cpus=16"], {"cpus_per_node": 4}, "lists",
         r"stage queries: each worker wants 16 CPU cores, and a node of this job has 4. Raise --cpus-per-node"),
        (["teachers.bm25.pool.resources={tpu: 1}"], {}, "lists", r"stage scores \(bm25\): each worker wants tpu"),
        (["training.ranks=9", "training.gpus_per_rank=1"], {"gpus_per_node": 4}, "evaluation",
         r"training.ranks is 9, and 2 nodes .* hold 8"),
        ([], {}, "list", "--until list: no such stage; there are corpus, queries"),
        ([], {"name": "two\nlines"}, "evaluation", r"'two\\nlines' holds a line break"),
        ([], {"sbatch_options": ("mem=4G",)}, "evaluation", "--sbatch mem=4G: expected a long option"),
        ([], {"sbatch_options": ("--comment=a\n#SBATCH --wrap=x",)}, "evaluation", "holds a line break"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_run_is_refused_before_the_job_is_queued(
    changes: list[str], request_: dict, until: str, message: str
) -> None:
    request = Request(**{"nodes": 2, "gpus_per_node": 0, "time": "12:00:00"} | request_)
    with pytest.raises(InputError, match=rf"(?s){message}"):
        filled("workdir=/runs/x", *changes, request=request, until=until)


@pytest.mark.parametrize(
    ("changes", "request_", "message"),
    [
        (["training.ranks=3"], {}, "training.ranks is 3, which 2 nodes cannot share evenly"),
        (["training.gpus_per_rank=1"], {}, "training.gpus_per_rank is 1, and a node of this job has 0 GPUs"),
        ([], {"gpus_per_node": 8, "cpus_per_node": 4}, "--cpus-per-node 4: a node has 8 ranks"),
    ],
)
def test_training_that_cannot_be_placed_is_refused(changes: list[str], request_: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        training_alone(load(*changes), Request(**{"nodes": 2, "gpus_per_node": 0, "time": "60"} | request_))


def test_the_command_prints_or_writes_and_never_replaces_a_file(tmp_path: Path) -> None:
    command = ["slurm", "laptop", "--nodes", "2", "--gpus-per-node", "0", "--time", "60", "--set", "workdir=/runs/x"]
    printed = listwise(*command, cwd=tmp_path)
    assert printed.returncode == 0, printed.stderr
    assert printed.stderr == ""
    assert list(tmp_path.iterdir()) == []
    written = listwise(*command, "--output", "my job.sbatch", cwd=tmp_path)
    assert written.returncode == 0, written.stderr
    assert written.stdout == "Wrote my job.sbatch. Submit it with: sbatch 'my job.sbatch'\n"
    assert (tmp_path / "my job.sbatch").read_text() == printed.stdout
    again = listwise(*command, "--output", "my job.sbatch", "--name", "other", cwd=tmp_path)
    assert again.returncode == 2
    assert "my job.sbatch exists already" in again.stderr
    assert (tmp_path / "my job.sbatch").read_text() == printed.stdout


def test_submitting_where_there_is_no_sbatch_says_where_to_go_and_writes_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    command = ["slurm", "laptop", "--nodes", "2", "--gpus-per-node", "0", "--time", "60", "--submit", "--output", "job"]
    done = listwise(*command, cwd=tmp_path)
    assert done.returncode == 2
    assert "there is no sbatch on PATH" in done.stderr
    assert "login node" in done.stderr
    assert list(tmp_path.iterdir()) == []
