"""Quantised weights in the real vLLM engine: it reads them, and computes in the dtype that is fast."""

from __future__ import annotations

import asyncio
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cluster.machines.processor import has_bfloat16
from generation.engines.vllm_start import engine_arguments, start
from generation.settings import GenerationSettings
from tests.quantise import configuration, save_quantised

TEXT = (
    "The capital of France is Paris, and the river that runs through the city is called the Seine. Many people visit "
    "the museum every year."
)
AS_GOOD = 0.15  # nats a token between plain weights and those of eight bits


def settings(model: str, **more: object) -> GenerationSettings:
    wanted = {"prompt": "completion", "max_model_len": 256, "engine_args": {"enforce_eager": True}}
    return GenerationSettings(engine="vllm", model=model, **(wanted | more))


async def read_and_write(model: str, tokens: list[int]) -> tuple[float, str, str]:
    """The mean log-probability of a text's tokens but the first, what the model writes next, and its dtype."""
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    engine, _ = start(settings(model))
    try:
        sampling = SamplingParams(max_tokens=12, min_tokens=12, temperature=0, prompt_logprobs=0)
        *_, output = [output async for output in engine.generate(tokens_input(tokens), sampling, "text")]
        own = zip(output.prompt_logprobs[1:], tokens[1:], strict=True)
        known = torch.tensor([step[token].logprob for step, token in own])
        return float(known.mean()), output.outputs[0].text, str(engine.model_config.dtype)
    finally:
        engine.shutdown()


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_weights_of_eight_bits_read_a_text_as_the_plain_ones_do(own_environment, tmp_path, smollm2):
    tokens = AutoTokenizer.from_pretrained(smollm2)(TEXT)["input_ids"]
    plain = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    with torch.inference_mode():
        logits = plain(torch.tensor([tokens])).logits[0, :-1]
    exact = float(torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens[1:])[:, None]).mean())

    mean, written, dtype = asyncio.run(read_and_write(save_quantised(smollm2, tmp_path / "eight", 8), tokens))

    assert exact > -4, "a text that the model finds likely"
    assert mean == pytest.approx(exact, abs=AS_GOOD)
    assert len(written.split()) > 3
    assert dtype == ("torch.bfloat16" if has_bfloat16() else "torch.float32"), "bfloat16 is slow without instructions"


@pytest.mark.parametrize(
    ("quantisation", "dtype"),
    [
        (configuration(8), "float32"),
        (configuration(4), None),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True}, None),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, None),
        ({"quant_method": "unheard-of"}, None),
    ],
    ids=["eight bits", "four bits", "awq", "gptq", "unheard-of"],
)
def test_float32_where_the_processor_has_no_bfloat16_and_the_weights_allow_it(
    monkeypatch, tmp_path, quantisation, dtype
):
    monkeypatch.setattr("generation.engines.vllm_start.has_bfloat16", lambda: False)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": quantisation}))
    assert engine_arguments(settings(str(tmp_path)), is_cpu=True).get("dtype") == dtype
