"""A checkpoint's weights load whole into the student that wrote them, and into no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cluster.errors import InputError
from distill.settings.encoders import LoraSettings, StudentSettings
from tests.distill.ranks import on_ranks

KINDS = {"whole": None, "adapters": LoraSettings(rank=4)}


def student(encoder: str, kind: str) -> torch.nn.Module:
    """A student as the trainer makes it: all of it is trained, or its adapters alone."""
    from distill.encoders.loading import load_model
    from distill.encoders.lora import add_adapters
    from distill.encoders.module import EncoderModule

    model = load_model(StudentSettings(model=encoder, dtype="float32"), "cpu")
    if (lora := KINDS[kind]) is not None:
        add_adapters(model, lora, seed=1)
    return EncoderModule(model, "cpu", torch.float32)


def move(module: torch.nn.Module) -> torch.nn.Module:
    """Changes every trained weight, always in the same way."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    return module


def write(rank: int, world_size: int, encoder: str, folder: Path) -> None:
    """Writes a checkpoint of each kind of student from a real engine."""
    import torch.distributed as dist

    from distill.settings.training import TrainingSettings
    from distill.training.checkpoints import CheckpointWriter
    from distill.training.deepspeed_engine import start_engine
    from distill.training.process_group import join_ranks

    join_ranks("cpu")
    for kind in KINDS:
        engine = start_engine(move(student(encoder, kind)), TrainingSettings(), world_size)
        with CheckpointWriter(folder / kind, keep=1) as writer:
            writer.save(engine, {"step": 1, "best_step": None})
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def written(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    on_ranks(write, 1, tiny_encoder, folder)
    return folder


def parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before | after if not torch.equal(before[name], after[name])}


def refusal(folder: Path, module: torch.nn.Module) -> str:
    """The text of the error; nothing of the module has changed."""
    from distill.training.checkpoints import load_weights

    before = parameters(module)
    with pytest.raises(InputError) as refused:
        load_weights(folder, module)
    assert not changed(before, parameters(module))
    text = str(refused.value)
    assert text.startswith(str(folder / "model.safetensors"))
    assert "--overwrite training" in text
    return text


@pytest.mark.parametrize("kind", KINDS)
def test_every_trained_weight_comes_back_and_frozen_ones_stay(written: Path, tiny_encoder: str, kind: str):
    from distill.training.checkpoints import load_weights

    fresh, expected = student(tiny_encoder, kind), parameters(move(student(tiny_encoder, kind)))
    before = parameters(fresh)
    load_weights(written / kind / "step-00000001", fresh)
    assert not changed(expected, parameters(fresh))
    moved = changed(before, parameters(fresh))
    assert moved == {name for name, parameter in fresh.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in moved) == (kind == "adapters")


@pytest.mark.parametrize("kind", KINDS)
def test_a_module_whose_attribute_was_renamed_is_refused(written: Path, tiny_encoder: str, kind: str):
    """`strict=False` would load nothing, and say nothing."""

    class Renamed(torch.nn.Module):
        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.encoder = model

    renamed = Renamed(student(tiny_encoder, kind).model)
    text = refusal(written / kind / "step-00000001", renamed)
    trained = sorted(name for name, parameter in renamed.named_parameters() if parameter.requires_grad)
    assert f"it lacks {len(trained)} ({trained[0]}, " in text
    assert f"holds {len(trained)} ({trained[0].replace('encoder', 'model', 1)}, " in text


@pytest.mark.parametrize(("saved", "loaded"), [("whole", "adapters"), ("adapters", "whole")])
def test_adapters_do_not_load_into_a_student_that_is_trained_whole_nor_the_reverse(
    written: Path, tiny_encoder: str, saved: str, loaded: str
):
    text = refusal(written / saved / "step-00000001", student(tiny_encoder, loaded))
    assert "lora_" in text


def test_one_weight_too_few_too_many_or_of_another_shape_is_refused_by_its_name(
    written: Path, tiny_encoder: str, tmp_path: Path
):
    module = student(tiny_encoder, "whole")
    weights = load_file(written / "whole" / "step-00000001" / "model.safetensors")
    name = sorted(weights)[5]
    for text, edited in (
        (f"lacks 1 ({name}) of", {key: weight for key, weight in weights.items() if key != name}),
        ("lacks 0 of", weights | {"model.0.new": torch.zeros(2)}),
        ("holds 1 (model.0.new) that", weights | {"model.0.new": torch.zeros(2)}),
        (f"{name} has shape [3, 2] in the file", weights | {name: torch.zeros(3, 2)}),
    ):
        save_file(edited, tmp_path / "model.safetensors")
        assert text in refusal(tmp_path, module)
