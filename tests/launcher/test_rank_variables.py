"""What torchrun or srun has left in the environment is ignored with one sentence; a rank is one with all of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.errors import InputError
from launcher import rank_variables, train
from tests.pipeline import listwise

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*WHOLE, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.setenv(name, "")  # so that it is restored, whoever removes it
        monkeypatch.delenv(name)


@pytest.mark.parametrize("left", [["RANK"], ["WORLD_SIZE"], ["LOCAL_RANK"], ["RANK", "WORLD_SIZE", "MASTER_ADDR"]])
def test_a_part_of_the_variables_is_ignored_and_named(
    left: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in left:
        monkeypatch.setenv(name, WHOLE[name])
    assert not train.is_rank()
    assert not WHOLE.keys() & os.environ.keys()
    [note] = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: {left[0]} ") and "MASTER_PORT" in note and note.endswith("ignored.")


def test_all_of_them_make_a_rank(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert train.is_rank()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "value"), [("RANK", "x"), ("RANK", "2"), ("WORLD_SIZE", "0"), ("MASTER_PORT", "0")])
def test_values_that_cannot_be_are_refused_with_the_remedy(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known, text in (WHOLE | {name: value}).items():
        monkeypatch.setenv(known, text)
    with pytest.raises(InputError, match=f"{name}={value}.*unset RANK"):
        train.is_rank()


def test_without_any_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rank_variables.forget("as a test")
    assert capsys.readouterr().err == ""


def test_the_command_says_it_and_goes_on(tmp_path: Path) -> None:
    words = ["--lists", "no-such.jsonl", "--student", "no-such", "--output", "out"]
    done = listwise("train", *words, cwd=tmp_path, environment={"RANK": "0"})
    assert done.returncode == 2
    note, error = done.stderr.splitlines()
    assert note.startswith("note: RANK is set without WORLD_SIZE")
    assert error.startswith("error: --lists no-such.jsonl: cannot be read")
