"""Where the vLLM engine's model lies, and what of it may be read: safetensors or GGUF, and never a pickle."""

from __future__ import annotations

import json
from pathlib import Path

from cluster.errors import InputError
from cluster.machines.hub import refuse_revision
from cluster.weights import refuse_pickles
from generation.engines.gguf import gguf_file, safetensors_folder
from generation.engines.lora import Adapter
from generation.settings import GenerationSettings


def find_model(name: str, revision: str | None = None) -> Path | None:
    """The folder or GGUF file of a language model or an adapter; None for an id of the hub.

    Raises:
        InputError: the name looks like a path and there is nothing, the weights there are a pickle, or a folder or a
            file shall have a revision.
    """
    path = Path(name).expanduser()
    if (file := gguf_file(path)) is not None:
        refuse_revision(name, revision, "generation.revision")
        return file
    if path.is_dir():
        refuse_revision(name, revision, "generation.revision")
        refuse_pickles(path, name, parts=False)
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.lower().endswith(".gguf"):
        raise InputError(
            f"generation.model: there is no folder or GGUF file '{name}'. Expected a folder with a language model, a "
            ".gguf file, or an id of the hub."
        )
    return None


def check_model(generation: GenerationSettings) -> None:
    """Looks, before anything is loaded, at the model and the adapter of a vLLM engine.

    Raises:
        InputError: they do not exist, hold a pickle, or the adapter does not fit the model.
    """
    if generation.engine != "vllm":
        return
    model = find_model(str(generation.model), generation.revision)
    if not generation.lora:
        return
    adapter = Path(generation.lora).expanduser()
    if adapter.is_dir():
        refuse_revision(generation.lora, generation.lora_revision, "generation.lora_revision")
        config = model / "config.json" if model and model.is_dir() else None
        known = json.loads(config.read_text(encoding="utf-8")) if config and config.is_file() else None
        Adapter.read(adapter).refuse_other_base(str(generation.model), known)
    elif generation.lora.startswith((".", "/", "~")) or generation.lora.count("/") > 1:
        raise InputError(
            f"generation.lora: there is no folder '{generation.lora}'. Expected an adapter's folder, as peft saves it, "
            "or an id of the hub."
        )


def model_folder(name: str, revision: str | None = None) -> str:
    """What vLLM loads: a folder, or an id of the hub. A GGUF file is converted first, once on each machine.

    Raises:
        InputError: as `find_model` says, or a package is lacking, or the file is damaged.
        RunError: the conversion ran out of memory.
    """
    found = find_model(name, revision)
    if found is None:
        return name
    return str(safetensors_folder(found) if found.is_file() else found)
