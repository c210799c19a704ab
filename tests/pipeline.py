"""The recipe of a whole run in seconds, and the command as a person calls it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LISTWISE = str(Path(sys.executable).with_name("listwise"))


def recipe_text(hundred: Path, encoder: str, workdir: Path) -> str:
    """Every stage with its real engine, sized for seconds."""
    return yaml.safe_dump(
        {
            "name": "hundred",
            "workdir": str(workdir),
            "corpus": {"path": str(hundred), "rows_per_shard": 40},
            "generation": {"engine": "extractive", "rows_per_shard": 30, "pool": {"workers": 1}},
            "retrieval": {"depth": 20, "round_trip_rank": 20, "min_candidates": 10, "rows_per_shard": 200},
            "teachers": {
                "bm25": {"kind": "bm25", "weight": 0.05, "rows_per_shard": 200},
                "encoder": {"kind": "bi_encoder", "weight": 0.01},
            },
            "lists": {"length": 10, "require_source_first": False},
            "student": {"model": encoder, "max_query_tokens": 16, "max_passage_tokens": 32, "dtype": "float32"},
            "training": {
                "ranks": 2, "cpus_per_rank": 0.5, "queries_per_step": 16, "list_length": 8, "max_steps": 4, "epochs": 1,
                "evaluate_every": 2, "warmup_steps": 1, "learning_rate": 1e-3, "dtype": "float32", "trackers": [],
            },
            "evaluation": {"dataset": str(hundred)},
            "cluster": {"cpus": 2, "wait_timeout_s": 120, "io_pool": {"workers": 1}},
        },
        sort_keys=False,
    )  # fmt: skip


def listwise(
    *words: str, cwd: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the installed command."""
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"} | (environment or {})
    return subprocess.run(
        [LISTWISE, *words], capture_output=True, text=True, cwd=cwd, env=environment, timeout=280, check=False
    )


class CommandHere:
    """The command in this process: it finds a Ray that is up, and what is imported already."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("NO_COLOR", "1")

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        from launcher import cli

        self._monkeypatch.setattr(sys, "argv", ["listwise", *words])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed, errors = self._capsys.readouterr()
        return subprocess.CompletedProcess(["listwise", *words], int(ended.value.code or 0), printed, errors)
