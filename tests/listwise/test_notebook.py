"""The guide to notebooks does what it says, in a process with an event loop and a Ray, beside files with our names."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import listwise
from tests.pipeline import recipe_text

ROOT = Path(__file__).parents[2]
CELLS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/guides/notebook.md").read_text(), re.M | re.S)


@pytest.mark.cluster
@pytest.mark.usefixtures("local_ray")
def test_the_guide_runs_cell_by_cell(
    hundred: Path,
    tiny_encoder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = recipe_text(hundred, tiny_encoder, tmp_path / "run")
    (tmp_path / "recipe.yaml").write_text(text.replace("ranks: 2", "ranks: 1"))
    (tmp_path / "my-judgements").symlink_to(hundred)
    (tmp_path / "cluster.py").write_text("raise RuntimeError('a file of the user')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    cells: dict[str, Any] = {}

    async def notebook() -> None:
        for cell in CELLS:
            exec(cell, cells)

    asyncio.run(notebook())
    assert len(CELLS) == 5
    printed = capsys.readouterr().out
    assert "runs/notebook/model" in printed and "runs/again/model" in printed
    assert "did you mean `training.learning_rate`?" in printed
    assert cells["queries"].dtype == np.float32 and (cells["queries"] @ cells["passages"].T).shape == (1, 2)
    assert cells["record"]["steps"] == 2
    assert 0 < cells["metrics"]["ndcg@10"] <= 1
    assert "" in sys.path, "the notebook's own imports are as they were"


def test_vectors_are_those_of_the_library(tiny_encoder: str) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["a harbour", "the weighing of herring in the harbour"]
    wanted = SentenceTransformer(tiny_encoder).encode(texts)
    np.testing.assert_allclose(listwise.encode(tiny_encoder, texts, dtype="float32"), wanted, atol=1e-5)
    assert listwise.encode(tiny_encoder, [], kind="query").shape == (0, wanted.shape[1])


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (("/no/such/model", ["text"]), {}, "there is no such folder"),
        (("{model}", "text"), {}, "a list of texts"),
        (("{model}", ["text"], "document"), {}, 'expected "query" or "passage"'),
        (("{model}", ["text"]), {"max_pasage_tokens": 9}, "did you mean `max_passage_tokens`?"),
    ],
)
def test_mistakes_are_input_errors(
    arguments: tuple[Any, ...], settings: dict[str, Any], words: str, tiny_encoder: str
) -> None:
    model, *others = arguments
    with pytest.raises(listwise.InputError, match=re.escape(words)):
        listwise.encode(model.format(model=tiny_encoder), *others, **settings)


def test_importing_it_is_quick_and_imports_nothing_heavy() -> None:
    code = "import sys, listwise; print([name for name in ('torch', 'ray', 'numpy', 'typer') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    assert (ROOT / "listwise" / "py.typed").exists()
