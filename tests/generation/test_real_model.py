"""A real small language model in the real vLLM engine on CPU: what it writes is about the passage it was shown.

The model is read from its GGUF file, and has a LoRA adapter of random weights, which spoils what it writes.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cluster.errors import InputError
from cluster.schemas import PASSAGES, QUERIES
from cluster.tables.plan import Plan
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.workers.worker import Output, Task
from generation.engines.base import Answer, Request
from generation.query_types import load_types
from generation.query_worker import QueryWorker
from generation.settings import GenerationSettings
from tests.smollm2 import gguf_file
from tests.tables import write_table

# written for this test; no two share a subject
TEXTS = (
    ("Lighthouses", "A lighthouse keeper trimmed the lamp every four hours. Electric lamps ended the work in 1950."),
    (
        "Beekeeping",
        "A hive of honeybees needs fifteen kilograms of honey to live through a cold winter without flowers.",
    ),
    (
        "Glaciers",
        "Glaciers move downhill because ice deforms under its own weight. Meltwater at the bottom speeds them up.",
    ),
    (
        "Violins",
        "Violin makers choose spruce for the top of the instrument, since it is light and stiff along the grain.",
    ),
    ("Coffee", "Roasting coffee longer makes it less acid and more bitter. Light roasts keep the fruit of the bean."),
    ("Chess", "A pawn that reaches the last rank is promoted, usually to a queen. En passant lasts for one move only."),
)


LONG = " ".join(f"Jar number {number} holds honey of the year {1900 + number % 90}." for number in range(300))


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z]{4,}", text.lower()))


def own_share(written: list[tuple[str, str]]) -> float:
    """Of the words that queries share with any passage, the part that they share with their own."""
    own = other = 0
    for source, query in written:
        for n, (title, text) in enumerate(TEXTS):
            shared = len(words(query) & words(f"{title} {text}"))
            own, other = (own + shared, other) if source == f"p{n}" else (own, other + shared)
    return own / max(1, own + other)


async def write(worker: QueryWorker, task: Task, other: Path) -> tuple[Output, dict[str, list[Answer]]]:
    """What the worker makes of all passages, and what its engine writes for them in either style.

    That is without the adapter; then come the answers with it, and that for a passage which is too long. At the end
    the engine refuses an adapter of another model, and goes on.
    """
    from vllm.lora.request import LoRARequest

    asked = [request for row in task.rows.to_pylist() for request in worker._requests(row)]
    adapter, worker.engine.lora_request = worker.engine.lora_request, None
    output, answers = await worker.process(task), {}
    for style in worker.engine.styles:
        worker.engine.style = style
        answers[style] = await worker.engine.answer(asked)
    answers["too long"] = await worker.engine.answer([Request("long:question:0", "long", "", LONG, "question", 0)])
    worker.engine.lora_request = adapter
    answers["adapter"] = await worker.engine.answer(asked[::6])
    worker.engine.lora_request = LoRARequest("other", 2, str(other))
    with pytest.raises(InputError, match=r"generation\.lora: vLLM cannot use .*other"):
        await worker.engine.answer(asked[:1])
    worker.engine.lora_request = None
    answers["afterwards"] = await worker.engine.answer(asked[:1])
    await worker.close()
    return output, answers


def save_adapters(folder: Path, model: str) -> None:
    """A LoRA adapter as peft saves it, with random weights, large enough to be seen, and one of other layers."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=64, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(model), config).save_pretrained(folder / "adapter")
    shutil.copytree(folder / "adapter", folder / "other")
    weights = load_file(folder / "other" / "adapter_model.safetensors")
    save_file(
        {name.replace("q_proj", "query"): tensor for name, tensor in weights.items()},
        folder / "other" / "adapter_model.safetensors",
    )


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(900)  # it takes minutes where the processor has AVX2 alone
def test_a_real_model_writes_queries_about_its_passages_in_both_styles(own_environment, tmp_path, smollm2):
    save_adapters(tmp_path, smollm2)
    rows = [
        {"passage_id": f"p{n}", "title": title, "text": text, "is_source": True}
        for n, (title, text) in enumerate(TEXTS)
    ]
    passages = write_table(str(tmp_path), PASSAGES, "passages", rows)
    generation = GenerationSettings(
        engine="vllm", model=str(gguf_file()), lora=str(tmp_path / "adapter"), prompt_characters=20_000,
        query_types=["question", "web_search"], weights={"question": 2}, samples=2,
        top_p=0.95, max_model_len=1024, max_tokens=24, engine_args={"enforce_eager": True},
    )  # fmt: skip
    types, storage = load_types(generation), Storage(str(tmp_path))
    [shard] = plan_shards(passages, 99, units_per_row=6)
    storage.put("queries/plan.json", Plan.new(QUERIES, [shard], {}).to_bytes())
    worker = QueryWorker(generation, types, storage, "passages")

    output, answers = asyncio.run(write(worker, Task(shard, 0, len(TEXTS), passages.read()), tmp_path / "other"))

    assert output.rows.num_rows + sum(output.drops.values()) == shard.units == len(TEXTS) * 6
    [path] = [path for path in storage.list("queries") if "prompt_style" in path]
    tried = json.loads(storage.get(path))["tried"]
    assert {style: (counts["asked"], counts["error"]) for style, counts in tried.items()} == {
        style: (len(TEXTS) * 2, None) for style in ("chat", "completion")
    }
    assert {name: count for name, count in output.stats.items() if name.startswith("trial_")} == {
        f"trial_{style}_kept": counts["kept"] for style, counts in tried.items()
    }
    assert Counter(one.reason for one in output.dropped) == output.drops
    assert sum(len(one.text) > 0 for one in output.dropped) >= len(output.dropped) - output.drops.get("empty", 0)
    with_adapter, [too_long] = answers.pop("adapter"), answers.pop("too long")
    assert len(answers.pop("afterwards")) == 1
    for style, written in answers.items():
        assert [answer.unit for answer in written[:5]] == [f"p0:question:{n}" for n in range(4)] + ["p0:web_search:0"]
        assert sum(answer.tokens > 24 for answer in written) == len(TEXTS) * 2, f"{style}: a prompt is read once"
        texts = [answer.text for answer in written if answer.text]
        assert len(set(texts)) > len(texts) / 2 > 0, f"{style}: samples of one prompt differ"
    kept = [(answer.unit.split(":")[0], answer.text) for answer in answers["completion"] if answer.text]
    assert len(kept) > len(TEXTS), "more than one a passage passes the clean-up"
    assert own_share(kept) > 0.5, "by chance it would be a sixth"
    spoilt = [(answer.unit.split(":")[0], answer.text or answer.dropped) for answer in with_adapter]
    assert own_share(spoilt) < 0.3, "random weights know nothing of the passage"
    assert too_long.is_cut
    assert not any(answer.is_cut for written in answers.values() for answer in written)
    assert 1024 - 24 - 60 < too_long.tokens <= 1024, "whole sentences, as many as the context holds"
