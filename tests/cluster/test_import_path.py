"""The current folder is on no import path, unless this project lies in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cluster.import_path import ROOT, SAFE, safe_children, without_working_directory


def test_the_current_folder_is_left_out_however_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert without_working_directory(["", "/lib", ".", str(tmp_path), f"{tmp_path}/"]) == ["/lib"]
    monkeypatch.chdir(ROOT)
    assert without_working_directory(["", str(ROOT)]) == ["", str(ROOT)]


def test_programs_that_are_started_inside_are_safe_and_the_environment_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":/lib:{tmp_path}")
    monkeypatch.delenv(SAFE, raising=False)
    with safe_children():
        assert (os.environ["PYTHONPATH"], os.environ[SAFE]) == ("/lib", "1")
    assert os.environ["PYTHONPATH"] == f":/lib:{tmp_path}"
    assert SAFE not in os.environ
