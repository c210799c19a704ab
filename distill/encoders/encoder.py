"""Dense encoders: a model's name becomes a SentenceTransformer, and texts become vectors.

Everything that embeds text (retrieval, bi-encoder teacher, student, evaluation) comes through here, so that a query is
put to a model in one way only. Pooling and normalisation run in float32 whatever the dtype of the transformer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import InputError
from cluster.machines.malloc import keep_freed_memory
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import load_model
from distill.encoders.texts import passage_text
from distill.settings import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from distill.encoders.module import EncoderModule


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
            keep_freed_memory()
        self.dtype = resolve_dtype(settings.dtype, self.device)
        self.model = model or load_model(settings, self.device)
        dimension = self.model.get_embedding_dimension()
        assert dimension is not None, "a text encoder has a dimension"
        if dimensions is not None and dimensions > dimension:
            raise InputError(f"model '{settings.model}' has {dimension} dimensions and cannot be cut at {dimensions}.")
        self.dimension: int = dimensions or dimension
        self.module: EncoderModule | None = None  # of the first texts

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
        module = self.module = self.module or self._module(shown[order[0]])
        start = 0
        while start < len(order):
            longest = min(max_tokens, 2 + sizes[order[start]] // 3)
            batch = order[start : start + max(1, self.settings.batch_tokens // longest)]
            start += len(batch)
            features = self.model.preprocess([shown[index] for index in batch])
            with torch.no_grad():
                embeddings = module(**features)
                if self.dimension < embeddings.shape[1]:
                    embeddings = torch.nn.functional.normalize(embeddings[:, : self.dimension], dim=1)
                vectors[batch] = embeddings.cpu().numpy()
        return vectors

    def _module(self, text: str) -> EncoderModule:
        """The model as a torch module; how it computes is tried on this text and on beginnings of it."""
        from distill.encoders.compute.choose import choose_for_reading
        from distill.encoders.module import EncoderModule

        module = EncoderModule(self.model, self.device, self.dtype)
        choose_for_reading(module, self.model.preprocess([text, text[: len(text) // 2], text[:40]]))
        return module
