"""A checkpoint is whole, or it does not count: any damage to any file is noticed, and the one before stands."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.training import checkpoint_clock
from distill.training.checkpoint_clock import CheckpointClock
from distill.training.checkpoint_files import name_of, newest_whole, read, seal

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


def write(folder: Path, step: int, best: int | None = None) -> Path:
    made = folder / name_of(step)
    made.mkdir(parents=True)
    (made / "model.safetensors").write_bytes(bytes(range(100)))
    (made / "optimizer.safetensors").write_bytes(bytes(range(100, 200)))
    seal(made, {"step": step, "best_step": best, "best_loss": float("inf"), "identity": {"loss": "kl", "rate": 1e-5}})
    return made


def test_a_state_comes_back_as_it_was_sealed(tmp_path: Path) -> None:
    state = read(write(tmp_path, 3))
    assert state == {
        "step": 3, "best_step": None, "best_loss": float("inf"), "identity": {"loss": "kl", "rate": 1e-5}
    }  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.sampled_from(FILES), st.sampled_from(["cut", "flip", "empty", "gone"]), st.randoms(use_true_random=False))
def test_every_damage_is_noticed_and_training_falls_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, kind: str, random
) -> None:
    folder = tmp_path_factory.mktemp("checkpoints")
    before, newest = write(folder, 10), write(folder, 20)
    file = newest / name
    content = bytearray(file.read_bytes())
    if kind == "flip":
        content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    file.write_bytes(content[: random.randrange(len(content))] if kind == "cut" else content)
    if kind in ("empty", "gone"):
        file.write_bytes(b"") if kind == "empty" else file.unlink()
    found, notes = newest_whole(folder)
    assert found == before
    assert notes[0].startswith(f"the checkpoint step-00000020 is damaged: {name}")
    assert notes[-1] == "Training continues from step-00000010."
    assert (folder / "damaged-00000020").is_dir(), "a person may look at it"
    assert newest_whole(folder) == (before, []), "it is said once"


@pytest.mark.parametrize("field", ["sha256", "files", "step"])
def test_a_flipped_bit_in_the_name_of_a_field_is_noticed(tmp_path: Path, field: str) -> None:
    file = write(tmp_path, 5) / "state.json"
    content = file.read_bytes()
    at = content.index(f'"{field}"'.encode()) + 1
    file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=r"state\.json"):
        read(file.parent)


def test_one_that_needs_a_lost_best_one_is_not_used_and_without_any_training_begins_anew(tmp_path: Path) -> None:
    first, second = write(tmp_path, 10, best=10), write(tmp_path, 20, best=10)
    assert newest_whole(tmp_path) == (second, [])
    (first / "model.safetensors").write_bytes(b"")
    found, notes = newest_whole(tmp_path)
    assert found is None
    assert "step-00000020 needs step-00000010, the best one so far" in notes[1]
    assert notes[-1] == "Training begins anew."
    assert newest_whole(tmp_path / "nothing") == (None, [])


def test_a_checkpoint_of_a_version_without_sums_counts(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)
    (folder / "state.json").write_text(json.dumps({"step": 5, "best_step": None}))
    assert newest_whole(tmp_path) == (folder, [])


def test_every_file_and_the_folder_are_on_the_disk_when_it_is_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, real = set(), os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda number: (synced.add(str(Path(f"/proc/self/fd/{number}").readlink())), real(number))
    )
    folder = write(tmp_path, 1)
    assert synced == {str(folder), *(str(folder / name) for name in FILES)}


def test_a_checkpoint_is_due_after_its_minutes_and_costs_at_most_two_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoint_clock.time, "monotonic", lambda: now[0])
    clock = CheckpointClock(10.0)
    for second, due in ((599.0, False), (600.0, True)):
        now[0] = second
        assert clock.is_due() == due
    with clock:
        now[0] += 30.0  # so that one in 25 minutes costs 2 %
    for second, due in ((630 + 1499.0, False), (630 + 1500.0, True)):
        now[0] = second
        assert clock.is_due() == due
    assert not CheckpointClock(None).is_due()
