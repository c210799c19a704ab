"""GGUF files, the format of llama.cpp: converted to a folder of safetensors, which vLLM serves, once on each machine.

transformers turns the quantised weights into plain ones and reads the tokenizer. The conversion runs in a process of
its own: it needs a multiple of the file in memory, which is free again before the engine starts.
"""

from __future__ import annotations

import hashlib
import importlib.util
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cluster.errors import InputError, RunError
from cluster.machines.shared_folder import shared_folder

MAGIC = b"GGUF"  # its first four bytes
_SPLIT = "-of-"  # model-00001-of-00003.gguf


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that a path names: itself, or the only one in a folder without safetensors; None: it names none.

    Raises:
        InputError: the folder has several, or the file is no GGUF or a part of one.
    """
    if path.is_dir() and not any(path.glob("*.safetensors")):
        files = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
        if len(files) > 1:
            raise InputError(
                f"generation.model: {path} holds {len(files)} GGUF files ({', '.join(file.name for file in files)}). "
                "Name one of them."
            )
        path = files[0] if files else path
    if path.suffix.lower() != ".gguf" or not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise InputError(
                f"generation.model: {path} is no GGUF file: it does not begin with {MAGIC.decode()}. Download it again."
            )
    if _SPLIT in path.stem:
        raise InputError(
            f"generation.model: {path} is one part of a model in several files. Join them (llama-gguf-split --merge), "
            "and name the whole."
        )
    return path


def safetensors_folder(file: Path) -> Path:
    """The folder of this machine with the model as bfloat16 safetensors and its tokenizer; the first caller makes it.

    Raises:
        InputError: the package gguf is not installed, or transformers cannot read the file.
        RunError: the conversion was killed, which the lack of memory does.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"generation.model: {file.name} is a GGUF file, and the package gguf, which reads it, is not installed. "
            "Install it (pip install gguf) where the workers run, or name a folder with safetensors."
        )
    from transformers import __version__

    state = file.stat()
    key = f"{file.resolve()} {state.st_size} {state.st_mtime_ns} {__version__}"

    def make(folder: Path) -> None:
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                pool.submit(_convert, str(file), str(folder)).result()
        except BrokenProcessPool as error:
            raise RunError(
                f"generation.model: the conversion of {file} was killed. It needs some six bytes of memory for each "
                "parameter. Convert it on a larger machine, and name the new folder."
            ) from error
        except (ValueError, OSError, KeyError, NotImplementedError, RuntimeError, IndexError) as error:
            raise InputError(
                f"generation.model: transformers cannot read {file} ({type(error).__name__}: {error}). It may be "
                "damaged, or of an architecture or a quantisation that transformers does not know. Name a folder with "
                "safetensors."
            ) from error

    return shared_folder(f"gguf-{hashlib.sha256(key.encode()).hexdigest()[:16]}", make)


def _convert(file: str, folder: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = Path(file)
    model: Any = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        trust_remote_code=False,
    )
    model = model.to(torch.bfloat16)
    vars(model.config).pop("quantization_config", None)  # the saved weights are plain
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name, trust_remote_code=False).save_pretrained(folder)
