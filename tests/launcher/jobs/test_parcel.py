"""A job gets the files that git does not ignore; a tree that is too large for Ray is refused."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from cluster.errors import InputError
from launcher.jobs.parcel import NEVER_SENT_FROM_ROOT, PACKAGES, RECIPE, checkout, pack


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A checkout that also holds every kind of file that must not be sent."""
    root = tmp_path / "tree"
    for name in PACKAGES:
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text(f"# {name}\n")
    for path in (
        "pyproject.toml", "my prompts/ü.txt", "runs/old/model.bin", "data/corpus.jsonl", ".venv/bin/python",
        "launcher/__pycache__/cli.pyc", ".mypy_cache/x.json", "results/records/plan.json", "launcher/secret.key",
        "big.tmp",
    ):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("something\n")
    (root / ".gitignore").write_text("*.tmp\n")
    (root / "launcher" / ".gitignore").write_text("*.key\n")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    return root


SENT = {"my prompts/ü.txt", "pyproject.toml", *(f"{name}/__init__.py" for name in PACKAGES)}


def test_runs_data_environments_caches_the_workdir_and_ignored_files_are_not_sent(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "parcel").mkdir()
    paths = pack("name: x\n", tree, tmp_path / "parcel", str(tree / "results"))
    assert set(paths) == SENT
    sent = {str(path.relative_to(tmp_path / "parcel")) for path in (tmp_path / "parcel").rglob("*") if path.is_file()}
    assert sent == SENT | {RECIPE}
    assert (tmp_path / "parcel" / RECIPE).read_text() == "name: x\n"
    assert (tmp_path / "parcel" / "distill" / "__init__.py").read_text() == "# distill\n"


def test_a_tree_without_git_is_sent_without_runs_data_environments_and_caches(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / ".git")
    (tmp_path / "parcel").mkdir()
    paths = pack("name: x\n", tree, tmp_path / "parcel", str(tree / "results"))
    gitignores = {".gitignore", "launcher/.gitignore"}  # Ray reads them when it packs
    assert set(paths) == SENT | gitignores | {"launcher/secret.key", "big.tmp"}


def test_a_tree_that_is_too_large_for_ray_is_refused_with_its_largest_folders(tree: Path, tmp_path: Path) -> None:
    (tree / "launcher" / "weights").mkdir()
    (tree / "launcher" / "weights" / "one.bin").write_bytes(bytes(3 * 2**20))
    (tree / "notes.bin").write_bytes(bytes(2**20))
    (tmp_path / "parcel").mkdir()
    with pytest.raises(
        InputError, match=r"Ray accepts 2\.0 MiB.*: launcher/weights \(3\.0 MiB\), \. \(1\.0 MiB\).*gitignore"
    ):
        pack("name: x\n", tree, tmp_path / "parcel", str(tree / "results"), limit_bytes=2 * 2**20)


def test_an_installed_listwise_sends_the_recipe_alone(tmp_path: Path) -> None:
    assert pack("name: x\n", None, tmp_path, "/mnt/run") == []
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()] == [RECIPE]


def test_git_tracks_no_file_of_this_checkout_that_would_not_be_sent() -> None:
    root = checkout()
    assert root == Path(__file__).parents[3]
    tracked = subprocess.run(
        ["git", "-C", str(root), "ls-files", "-z"], capture_output=True, text=True, check=False
    ).stdout
    assert not [path for path in tracked.split("\0") if path.split("/")[0] in NEVER_SENT_FROM_ROOT]
