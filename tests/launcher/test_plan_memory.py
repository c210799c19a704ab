"""The memory that the recipes for GPUs need, stage by stage, beside the rules of vLLM and torch.

The models are described by their published configurations; no weights are needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.shapes import Shape, save_encoder
from cluster.settings import PoolSettings
from distill.activations.costs import measure
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule
from distill.settings.encoders import EncoderSettings
from launcher.plan.corpus import CorpusSample
from launcher.plan.devices import GPUS
from launcher.plan.memory import MemoryNeed, memory_needs
from launcher.plan.models import model_size
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe

QWEN3 = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "vocab_size": 151_936, "head_dim": 128,
         "num_key_value_heads": 8, "max_position_embeddings": 40_960}  # fmt: skip
CONFIGURATIONS = {
    "Qwen/Qwen3-0.6B": QWEN3 | {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                                "intermediate_size": 3072, "tie_word_embeddings": True},
    "Qwen/Qwen3-Reranker-0.6B": QWEN3 | {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16,
                                         "intermediate_size": 3072, "tie_word_embeddings": True},
    "Qwen/Qwen3-Reranker-4B": QWEN3 | {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
                                       "intermediate_size": 9728, "tie_word_embeddings": True},
    "mixedbread-ai/mxbai-rerank-large-v2": {
        "model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "vocab_size": 151_936, "hidden_size": 1536,
        "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "intermediate_size": 8960,
        "tie_word_embeddings": True, "max_position_embeddings": 32_768,
    },
    "meta-llama/Llama-3.1-8B-Instruct": {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 128_256, "hidden_size": 4096,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14_336,
        "tie_word_embeddings": False, "max_position_embeddings": 131_072,
    },
    "BAAI/bge-base-en-v1.5": {
        "model_type": "bert", "architectures": ["BertModel"], "vocab_size": 30_522, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 512,
    },
}  # fmt: skip
# as their authors publish them
BILLIONS = {"Qwen/Qwen3-0.6B": 0.6, "Qwen/Qwen3-Reranker-4B": 4.0, "mixedbread-ai/mxbai-rerank-large-v2": 1.54,
            "meta-llama/Llama-3.1-8B-Instruct": 8.03, "BAAI/bge-base-en-v1.5": 0.109}  # fmt: skip
SAMPLE = CorpusSample(100_000, 100_000, 300, True, (("", "A passage of some forty words. " * 40),))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A folder with the configuration of each model, by its id."""
    root = tmp_path_factory.mktemp("models")
    for name, configuration in CONFIGURATIONS.items():
        (folder := root / name).mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(configuration))
    return {name: str(root / name) for name in CONFIGURATIONS}


def on_folders(shipped: str, folders: dict[str, str], tmp_path: Path) -> Recipe:
    """A shipped recipe that names the folders in place of the ids."""
    text = Path(f"launcher/recipes/{shipped}.yaml").read_text()
    for name, folder in folders.items():
        text = text.replace(f"model: {name}\n", f"model: {folder}\n")
    (tmp_path / "recipe.yaml").write_text(text)
    return load_recipe(str(tmp_path / "recipe.yaml"), ["evaluation.dataset=judged"])


def needs_of(shipped: str, gpu: str, folders: dict[str, str], tmp_path: Path) -> list[MemoryNeed]:
    return memory_needs(on_folders(shipped, folders, tmp_path), SAMPLE, GPUS[gpu])


@pytest.mark.parametrize(("shipped", "gpu"), [("small-gpu", "a10"), ("small-gpu", "h100"), ("cadet", "h100")])
def test_every_stage_of_a_shipped_recipe_fits_on_the_gpu_that_it_names(shipped, gpu, folders, tmp_path) -> None:
    needs = needs_of(shipped, gpu, folders, tmp_path)
    assert {need.stage.partition(" ")[0] for need in needs} >= {"queries", "embeddings", "scores", "training"}
    assert [(need.stage, need.unknown) for need in needs if need.unknown] == []
    assert [(need.stage, need.bytes, need.limit) for need in needs if not need.fits] == []


def test_on_24_gb_the_large_writer_of_cadet_needs_a_shorter_context_and_all_else_fits(folders, tmp_path) -> None:
    needs = needs_of("cadet", "a10", folders, tmp_path)
    assert [(need.stage, need.change) for need in needs if not need.fits] == [
        ("queries", "generation.max_model_len=1024")
    ]


@pytest.mark.parametrize(
    ("knows_bfloat16", "dtype", "number"), [(True, None, 2), (False, None, 4), (True, "float32", 4)]
)
def test_on_a_cpu_without_bfloat16_weights_and_cache_are_float32(
    knows_bfloat16: bool, dtype: str | None, number: int, folders: dict[str, str], tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr("launcher.plan.devices.has_bfloat16", lambda: knows_bfloat16)
    recipe = on_folders("small-gpu", folders, tmp_path)
    generation = recipe.generation.model_copy(
        update={"pool": PoolSettings(), "engine_args": {"dtype": dtype} if dtype else {}}
    )
    (need, *_) = memory_needs(recipe.model_copy(update={"generation": generation}), SAMPLE, GPUS["a10"])
    size = model_size(str(generation.model))
    assert size is not None and need.stage == "queries"
    assert need.parts["weights"] == number * size.parameters
    assert need.parts["cache of 16 prompts"] == 16 * generation.max_model_len * size.cache_bytes(1) * number / 2


@pytest.mark.parametrize("name", list(BILLIONS))
def test_parameters_are_those_that_the_authors_publish(name: str, folders: dict[str, str]) -> None:
    size = model_size(folders[name])
    assert size is not None
    assert size.parameters / 1e9 == pytest.approx(BILLIONS[name], rel=0.03)


@pytest.mark.parametrize("name", ["Qwen/Qwen3-0.6B", "meta-llama/Llama-3.1-8B-Instruct"])
def test_a_token_in_the_cache_takes_what_vllm_gives_it(name: str, folders: dict[str, str]) -> None:
    from vllm.v1.kv_cache_interface import FullAttentionSpec

    configuration, size = CONFIGURATIONS[name], model_size(folders[name])
    assert size is not None
    width = configuration.get("head_dim") or configuration["hidden_size"] // configuration["num_attention_heads"]
    heads = configuration["num_key_value_heads"]
    layer = FullAttentionSpec(block_size=16, num_kv_heads=heads, head_size=width, dtype=torch.bfloat16)
    assert size.cache_bytes(1) == configuration["num_hidden_layers"] * layer.page_size_bytes / layer.block_size


@pytest.mark.parametrize("kind", ["bert", "modernbert", "qwen3"])
def test_a_micro_batch_leaves_what_autograd_holds_of_it(kind: str, tmp_path: Path) -> None:
    """Measured under autocast to bfloat16 with fused attention, as on a GPU; 15 % either way."""
    shape = Shape(kind, 256, 4, 4, 768, words=200, key_heads=2, head=64)
    folder = save_encoder(shape, tmp_path, 128)
    loaded = load_model(EncoderSettings(model=folder, max_passage_tokens=128), "cpu")
    module = EncoderModule(loaded, "cpu", torch.bfloat16)
    module.attention = "sdpa"
    ids = torch.randint(4, 200, (64, 128))
    costs = measure(module, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids.numel(), graph=True)
    size = model_size(folder)
    assert size is not None and costs.graph
    assert size.saved * ids.numel() == pytest.approx(costs.graph, rel=0.15)
