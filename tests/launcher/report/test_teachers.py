from __future__ import annotations

import json
from pathlib import Path

from cluster.tables.storage import Storage
from launcher.report.page import build_report
from tests.launcher.report.test_report import page
from tests.launcher.workdir import NASTY, complete_workdir

PAIR = {"first": "reranker", "second": NASTY, "queries": 1000, "tau": 0.51234, "overlap": 0.73}


def text_of(storage: Storage) -> str:
    return " ".join(page(storage).text.split())


def test_the_report_shows_how_far_each_pair_of_teachers_agrees(tmp_path: Path) -> None:
    storage = complete_workdir(tmp_path / "run")
    assert "Teachers that hardly differ" not in text_of(storage)
    storage.put("agreement/record.json", json.dumps({"pairs": [PAIR, {**PAIR, "tau": None}]}).encode())
    shown = page(storage)
    assert f"reranker, {NASTY}" in shown.text, "a name is shown as text"
    assert "1,0000.51273 %" in shown.text
    assert "73 %" in shown.text
    build_report(storage)
    assert json.loads(storage.get("report.json"))["agreement"]["pairs"][0] == PAIR


def test_the_report_shows_weights_ranges_and_what_learning_gained(tmp_path: Path) -> None:
    storage = complete_workdir(tmp_path / "run")
    learnt = {
        "queries": 480, "held_out": 520, "kept": "learnt",
        "given": {"weights": [1.0, 0.02], "learning": 0.6, "held_out": 0.6123},
        "learnt": {"weights": [0.35, 0.65], "learning": 0.72, "held_out": 0.7123},
    }  # fmt: skip
    combined = {"weights": [0.35, 0.65], "combine": "sum", "ranges": [[0.25, 0.5], [10.0, 4.0]]}
    record = {"teachers": ["minilm", "bm25"], "ensemble": combined, "learnt": learnt}
    storage.put("ensemble/record.json", json.dumps(record).encode())
    text = text_of(storage)
    assert "is 0.7123 with the learnt ones and 0.6123 with the given ones; the learnt ones are kept" in text
    rows = page(storage).text
    for words in ("minilm0.350.250.75", "bm250.651014"):
        assert words in rows.replace("\n", "").replace(" ", "")
    combined["ranges"] = None
    storage.put("ensemble/record.json", json.dumps({**record, "learnt": None, "ensemble": combined}).encode())
    assert "minilm0.35" in page(storage).text.replace("\n", "").replace(" ", "")
