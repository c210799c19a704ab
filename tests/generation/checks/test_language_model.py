"""Language models that are none are refused before the first stage, by files alone; the model is a real one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.errors import InputError
from generation.checks import stage
from generation.checks.language_model import check_model
from generation.judging.settings import JudgeSettings
from generation.mixture import Section
from generation.settings import GenerationSettings
from tests.distill.conftest import open_run


def writer(model: str | Path, **changes: object) -> GenerationSettings:
    return GenerationSettings.model_validate({"engine": "vllm", "model": str(model), **changes})


@pytest.fixture
def copy(smollm2: str, tmp_path: Path) -> Path:
    """A copy of the model's folder, to be damaged."""
    return Path(shutil.copytree(smollm2, tmp_path / "model"))


def change_config(folder: Path, **fields: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rename_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    weights = {name.replace("layers.3.mlp", "layers.3.other"): tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})


def test_a_language_model_is_read_with_all_of_its_weights(smollm2: str) -> None:
    from safetensors import safe_open

    with safe_open(Path(smollm2) / "model.safetensors", "pt") as file:
        stored = len(list(file.keys()))
    found = check_model(writer(smollm2))
    assert found.weights == stored + 1, "the head is tied to the embeddings, and not stored"
    assert found.styles == ("chat", "completion")
    assert found.context == 4096, "the recipe's limit"
    assert check_model(writer(smollm2, max_model_len=None)).context == 8192, "the model's own"
    assert check_model(JudgeSettings(model=smollm2)).weights == found.weights


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rename_weights, r"hold nothing for model\.layers\.3\.mlp\.down_proj\.weight, .* which LlamaForCausalLM needs"),
        (lambda folder: change_config(folder, intermediate_size=512), r"config\.json .* describes other shapes"),
        (lambda folder: (folder / "config.json").unlink(), "the configuration of .* cannot be read"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "lla'), "configuration .* cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"12345678"), "the weights of .* cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "the weights of .* cannot be read"),
    ],
)
def test_files_that_are_no_whole_model_are_refused(copy: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(copy)
    with pytest.raises(InputError, match=f"^generation.model: .*{message}"):
        check_model(writer(copy))
    with pytest.raises(InputError, match=f"^generation.judge.model: .*{message}"):
        check_model(JudgeSettings(model=str(copy)))


def test_a_folder_without_a_tokenizer_is_refused(copy: Path) -> None:
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"the tokenizer of .* cannot be read"):
        check_model(writer(copy))


def test_an_encoder_writes_no_queries(tiny_encoder: str) -> None:
    with pytest.raises(InputError, match="hold nothing for cls"):
        check_model(writer(tiny_encoder))


def test_a_prompt_that_never_fits_is_refused_with_its_type(smollm2: str) -> None:
    with pytest.raises(InputError, match=r"type question takes \d+ tokens .* holds 128 \(generation.max_model_len\)"):
        check_model(writer(smollm2, max_model_len=128, query_types=["question"]))
    assert check_model(writer(smollm2, max_model_len=128, query_types=["question"], examples=0)).context == 128


def test_vllm_refuses_what_only_it_knows(smollm2: str) -> None:
    pytest.importorskip("vllm")
    with pytest.raises(InputError, match=r"generation\.engine_args: vLLM does not take them"):
        check_model(writer(smollm2, engine_args={"no_such_argument": 1}), asks_vllm=True)
    assert check_model(writer(smollm2), asks_vllm=True).context == 4096


@pytest.mark.usefixtures("local_ray")
def test_a_run_refuses_it_before_its_first_stage_and_keeps_what_it_has_checked(
    smollm2: str, copy: Path, tmp_path: Path
) -> None:
    rename_weights(copy)
    broken = writer(copy, pool={"cpus": 1}).model_copy(update={"judge": JudgeSettings(model=smollm2, pool={"cpus": 1})})
    with open_run(tmp_path / "run") as run:
        (row,) = stage.build(run, Section(), broken.judge).read().to_pylist()
        assert row["styles"] == ["chat", "completion"]
        with pytest.raises(InputError, match=r"^generation\.1\.model: .* hold nothing for"):
            stage.build(run, Section(1, "generation.1"), broken)
        assert run.table("checks/generation.judge").sealed()
        with pytest.raises(KeyError):
            run.table("checks/generation.1")
