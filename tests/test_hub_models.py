"""Models by their id on a hub: the same rules as for folders, and nothing is fetched that is not read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import traps
from tests.hub import OTHER_COMMIT, Hub, hub_of

LOAD = """
import json, logging, sys
from cluster.errors import InputError
from distill.encoders.encoder import Encoder
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers.cross_encoder import CrossEncoderScorer
from distill.teachers.adapting.model import load_base
from generation.checks.files import read_files
from generation.engines.lora import Adapter, adapter_folder

def encode(**settings):
    return Encoder(EncoderSettings(**settings)).encode_queries(["where is the harbour"]).tolist()

def score(**settings):
    scorer = CrossEncoderScorer(TeacherSettings(kind="cross_encoder", dtype="float32", **settings))
    return list(scorer.score([("where is the harbour", "The harbour is in the north.")]))

def adapt(**settings):
    return load_base(TeacherSettings(kind="adapted", **settings), 0)[2]

def lora(model, revision=None):
    return Adapter.read(adapter_folder(model, revision)).rank

def read(**settings):
    return read_files(max_model_len=None, trust_remote_code=False, **settings).weights

def retries():
    return retried

def note(record):
    retried.append(record.getMessage())
    return True

retried = []
logging.getLogger("huggingface_hub.utils._http").addFilter(note)
for task, settings in json.loads(sys.argv[1]):
    try:
        print(json.dumps(globals()[task](**settings), default=float), flush=True)
    except InputError as error:
        print(json.dumps(str(error)), flush=True)
"""


def ask(environment: dict[str, str], *tasks: tuple[str, dict]) -> list:
    """What a fresh process makes of each task, with the variables of a hub, or without one."""
    command = [sys.executable, "-c", LOAD, json.dumps(tasks)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line[:1] in '["tfn0123456789']
    assert len(lines) == len(tasks), done.stdout + done.stderr
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trace") / "trace"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str, tiny_reranker: str, tiny_llama: str, trace: Path):
    """org/encoder and org/reranker have a pickle beside their safetensors; of org/pickled* there are pickles alone."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    root = tmp_path_factory.mktemp("hub") / "org"
    shutil.copytree(tiny_encoder, root / "encoder")
    shutil.copytree(tiny_reranker, root / "reranker")
    for name in ("encoder", "reranker"):
        torch.save({"weight": traps.Touch(trace)}, root / name / "pytorch_model.bin")
        traps.pickled(root / name, root / f"pickled-{name}", trace)
        traps.with_code(root / name, root / f"own-code-{name}", trace)
    shutil.copytree(tiny_encoder, root / "pickled-layer")
    modules = json.loads((root / "pickled-layer" / "modules.json").read_text())
    dense = {"idx": len(modules), "name": "d", "path": "3_Dense", "type": "sentence_transformers.models.Dense"}
    (root / "pickled-layer" / "modules.json").write_text(json.dumps([*modules, dense]))
    (layer := root / "pickled-layer" / "3_Dense").mkdir()
    (layer / "config.json").write_text(json.dumps({"in_features": 32, "out_features": 8, "bias": False}))
    torch.save({"linear.weight": torch.ones(8, 32), "x": traps.Touch(trace)}, layer / "pytorch_model.bin")
    for rank, name in ((4, "adapter"), (2, "adapter@v2")):
        lora = LoraConfig(r=rank, target_modules=["query"])
        get_peft_model(AutoModel.from_pretrained(tiny_encoder), lora).save_pretrained(root / name)
    torch.save({"weight": traps.Touch(trace)}, root / "adapter" / "adapter_model.bin")
    changed = AutoModel.from_pretrained(tiny_encoder)
    changed.embeddings.word_embeddings.weight.data.neg_()
    shutil.copytree(tiny_encoder, root / "encoder@v2")
    changed.save_pretrained(root / "encoder@v2")
    shutil.copytree(tiny_encoder, root / "tagged")
    (root / "tagged" / "model.safetensors").unlink()  # the main branch has no weights
    shutil.copytree(tiny_encoder, root / "tagged@v2")
    shutil.copytree(tiny_llama, root / "llama@v2")
    shutil.copytree(tiny_llama, root / "llama", ignore=shutil.ignore_patterns("tokenizer*"))  # cannot be read
    with hub_of(root.parent) as made:
        yield made


def test_models_of_the_hub_are_what_their_folders_are_and_no_pickle_is_fetched(
    hub: Hub, tiny_encoder: str, tiny_reranker: str, trace: Path
) -> None:
    found = ask(
        hub.environment,
        ("encode", {"model": "org/encoder"}), ("score", {"model": "org/reranker"}),
        ("adapt", {"model": "org/encoder"}), ("adapt", {"model": "org/reranker"}), ("lora", {"model": "org/adapter"}),
    )  # fmt: skip
    folders = ask({}, ("encode", {"model": tiny_encoder}), ("score", {"model": tiny_reranker}))
    assert found == [*folders, False, True, 4]
    assert [name for name in hub.fetched if name.endswith((".bin", ".py"))] == []
    assert "org/adapter/adapter_model.safetensors" in hub.fetched
    silent = {**hub.environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = ask(
        silent,
        ("encode", {"model": "org/encoder"}), ("score", {"model": "org/reranker"}), ("lora", {"model": "org/adapter"}),
        ("retries", {}),
    )  # fmt: skip
    assert again == [*folders, 4, []], "once fetched, no hub is needed, and it is not asked again and again"
    assert not trace.exists()


def test_a_revision_is_what_the_hub_has_at_it(hub: Hub, tiny_encoder: str, tmp_path: Path) -> None:
    folder = str(hub.root / "org" / "encoder@v2")
    of_folder, main = ask({}, ("encode", {"model": folder}), ("encode", {"model": tiny_encoder}))
    assert of_folder != main
    revised = [
        ("encode", {"model": "org/encoder", "revision": "v2"}),
        ("encode", {"model": "org/encoder", "revision": OTHER_COMMIT}),
        ("encode", {"model": "org/encoder", "revision": "v2", "pooling": "mean"}),
        ("encode", {"model": "org/tagged", "revision": "v2"}),
    ]
    language_model = [("read", {"name": "org/llama", "revision": revision}) for revision in (None, "v9", "v2")]
    refused = [
        ("encode", {"model": "org/encoder", "revision": "v9"}),
        ("encode", {"model": "all-MiniLM-L6-v2", "revision": "v9"}),
        ("encode", {"model": folder, "revision": "v2"}),
    ]
    home = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    found = ask(home, *revised, ("encode", {"model": "org/encoder"}), *language_model, *refused)
    assert found[:5] == [of_folder, of_folder, of_folder, main, main]
    of_main, of_another, weights = found[5:8]
    assert "the tokenizer of 'org/llama' cannot be read" in of_main
    assert "the configuration of 'org/llama' cannot be read" in of_another and "v9" in of_another
    assert weights is None, "they are not fetched for a look"
    no_such, not_cached, of_a_folder = found[8:]
    assert "'org/encoder' cannot be loaded: the hub has no such `revision` of it" in no_such
    assert "the hub has no model of this name" in not_cached, "the packaged model is no revision of the hub's"
    assert f"model '{folder}': revision is 'v2', but this is a folder or a file" in of_a_folder
    silent = {**home, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert ask(silent, *revised, ("retries", {})) == [of_folder, of_folder, of_folder, main, []]


def test_an_adapter_of_a_revision_is_the_one_that_the_hub_has_at_it(hub: Hub, tmp_path: Path) -> None:
    home = {**hub.environment, "HF_HOME": str(tmp_path / "home")}
    folder = str(hub.root / "org" / "adapter@v2")
    of_v2 = ("lora", {"model": "org/adapter", "revision": "v2"})
    tasks = [of_v2, ("lora", {"model": "org/adapter"}), ("lora", {"model": "org/adapter", "revision": "v9"})]
    revised, main, no_such, of_a_folder = ask(home, *tasks, ("lora", {"model": folder, "revision": "v2"}))
    assert (revised, main) == (2, 4)
    assert "has the adapter 'org/adapter' of revision 'v9'" in no_such
    assert f"model '{folder}': generation.lora_revision is 'v2', but this is a folder" in of_a_folder
    assert ask({**home, "HF_ENDPOINT": "http://127.0.0.1:9"}, of_v2) == [2]


def test_pickles_and_code_of_models_on_the_hub_are_refused_and_not_run(hub: Hub, trace: Path) -> None:
    names = ["pickled-encoder", "own-code-encoder", "pickled-layer", "pickled-reranker", "own-code-reranker", "absent"]
    tasks = [("encode" if "enc" in name or "layer" in name else "score", {"model": f"org/{name}"}) for name in names]
    *answers, of_revision = ask(hub.environment, *tasks, ("score", {"model": "org/reranker", "revision": "v9"}))
    assert "the hub has no such `revision`" in of_revision
    found = dict(zip(names, answers, strict=True))
    for name, said in found.items():
        assert isinstance(said, str) and f"'org/{name}' cannot be loaded" in said, (name, said)
    for name in ("own-code-encoder", "own-code-reranker"):
        assert "trust_remote_code: true" in found[name]
    for name, file in (("encoder", "pytorch_model.bin"), ("reranker", "pytorch_model.bin")):
        assert f"loaded: {file} is a pickle, which can run any program" in found[f"pickled-{name}"]
    assert "loaded: 3_Dense/pytorch_model.bin is a pickle" in found["pickled-layer"]
    assert "loaded: the hub has no model of this name, or it is private" in found["absent"]
    assert not trace.exists()


def test_a_model_that_is_nowhere_is_refused_with_the_reason(hub: Hub) -> None:
    absent = [("encode", {"model": "org/absent"}), ("score", {"model": "org/absent"})]
    offline = {**hub.environment, "HF_HUB_OFFLINE": "1"}
    for said in ask(offline, *absent):
        assert "not in the local cache, and HF_HUB_OFFLINE is set" in said
    for said in ask({**hub.environment, "HF_ENDPOINT": "http://127.0.0.1:9"}, *absent):
        assert "not in the local cache, and the hub does not answer" in said
