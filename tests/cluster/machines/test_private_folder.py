"""Temporary files lie in a folder that no other user of the machine can enter."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from cluster.errors import InputError
from cluster.machines.private_folder import MAX_RAY_FOLDER, keep_caches_private, private_folder, ray_folder


@pytest.fixture(autouse=True)
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    return tmp_path


def test_the_folder_is_made_for_this_user_alone_and_used_again() -> None:
    folder = private_folder()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder() == folder


def test_a_folder_that_others_can_enter_is_refused() -> None:
    private_folder().chmod(0o755)
    with pytest.raises(InputError, match=r"alone \(mode 700\), found mode 755.*set TMPDIR"):
        private_folder()


def test_a_link_in_its_place_is_refused(temp: Path) -> None:
    (temp / "elsewhere").mkdir(mode=0o700)
    folder = private_folder()
    folder.rmdir()
    folder.symlink_to(temp / "elsewhere")
    with pytest.raises(InputError, match="belongs to you alone"):
        private_folder()


def test_a_path_too_long_for_rays_sockets_is_refused_before_ray_is_started(
    temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (deep := temp / ("x" * MAX_RAY_FOLDER)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(InputError, match=f"sockets allow {MAX_RAY_FOLDER}"):
        ray_folder()
    monkeypatch.setenv("RAY_TMPDIR", "/somewhere")
    assert ray_folder() is None


def test_a_file_in_its_place_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / f"listwise-{os.getuid()}").write_text("")
    with pytest.raises(InputError, match="expected a folder that belongs to you alone"):
        private_folder()


def test_compiled_code_lies_in_it_unless_the_environment_says_where(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("VLLM_CACHE_ROOT", "/my/own")
    keep_caches_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(private_folder() / "torchinductor")
    assert os.environ["VLLM_CACHE_ROOT"] == "/my/own"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
