"""Files of the user take the place of no package, in no process; a foreign package of our name is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipeline import listwise, recipe_text

ROOT = Path(__file__).parents[2]
FILES = ("cluster", "distill", "generation", "launcher", "datasets", "ray", "torch", "numpy", "transformers", "yaml",
         "random", "queue", "statistics", "types")  # fmt: skip


@pytest.mark.cluster
def test_a_run_in_a_folder_full_of_such_files_imports_none(hundred: Path, tiny_encoder: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    for name in FILES:
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name}.py of the user was imported')")
    done = listwise("run", "recipe.yaml", "--until", "embeddings", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "of the user" not in done.stdout + done.stderr


@pytest.mark.parametrize("path", [":{other}", "{other}:.", "{here}"])
def test_the_folder_is_off_the_path_however_it_came_there(path: str, hundred: Path, tmp_path: Path) -> None:
    for name in ("cluster", "yaml", "pydantic"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('a file of the user was imported')")
    named = path.format(other=tmp_path / "other", here=tmp_path)
    done = listwise("status", "no-such-run", cwd=tmp_path, environment={"PYTHONPATH": named})
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: there is no folder")


@pytest.mark.parametrize("name", ["cluster", "distill", "generation", "launcher"])
@pytest.mark.parametrize("folder", ["elsewhere", "site-packages"])
def test_a_foreign_package_is_named_with_the_remedy(name: str, folder: str, tmp_path: Path) -> None:
    (tmp_path / folder / name).mkdir(parents=True)
    (tmp_path / folder / name / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-P", "-c", "from listwise.command import main; main()", "status", "."]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {tmp_path / folder / name} hides the package `{name}` of Listwise")
    remedy = "uninstall the package" if folder == "site-packages" else f"take {tmp_path / folder} out of PYTHONPATH"
    assert remedy in done.stderr


def test_a_module_that_the_notebook_has_imported_under_our_name_is_named(tmp_path: Path) -> None:
    (tmp_path / "cluster.py").write_text("k = 3")
    code = f"import cluster, sys; sys.path.append({str(ROOT)!r}); import listwise; listwise.load_recipe('laptop')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    message = done.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: {tmp_path / 'cluster.py'} hides the package `cluster`")
    assert "rename it" in message
