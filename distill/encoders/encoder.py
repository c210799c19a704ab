"""Dense encoders: texts become vectors.

Retrieval, the bi-encoder teacher and evaluation embed texts through this class, so that a model always gets a query in
the same form. Pooling and normalisation run in float32, whatever the dtype of the transformer.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import InputError
from cluster.machines.malloc import keep_freed_memory
from distill.encoders.device import default_device, resolve_dtype, tokens_of_pass
from distill.encoders.loading import load_model
from distill.encoders.reading import Reading
from distill.encoders.similarity import cut, normalizes
from distill.encoders.texts import passage_text
from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from distill.encoders.module import EncoderModule


BLOCK_TOKENS = 2**20  # tokens, padding included, that are read at once: 25 MB of ids, mask and types
LIBRARIES = ("sentence_transformers", "transformers.models.bert.modeling_bert")  # what an encoder takes long to import


class Encoder:
    """Encoder that embeds queries and passages with a SentenceTransformer, without gradients.

    Args:
        settings: the model, its prompts and lengths.
        device: "cpu" or "cuda"; None takes a GPU if the process has one.
        model: a loaded float32 model, used instead of `settings.model`.
        dimensions: number of dimensions at which embeddings are cut, and normalised again where whole ones are; None
            leaves them whole.

    Raises:
        InputError: the model cannot be loaded, or has fewer than `dimensions` dimensions.
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
        self.queries, self.passages = (Reading.of(self.model, task, settings) for task in ("query", "document"))
        if dimensions is not None and dimensions > dimension:
            raise InputError(f"model '{settings.model}' has {dimension} dimensions and cannot be cut at {dimensions}.")
        self.dimension: int = dimensions or dimension
        self.batch_tokens = tokens_of_pass(settings.batch_tokens, self.device)
        self.module: EncoderModule | None = None  # made for the first texts, since these decide how it computes

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """(n, dimension) float32 vectors of n queries."""
        return self._encode(texts, self.queries)

    def encode_passages(self, titles: list[str], texts: list[str]) -> np.ndarray:
        """(n, dimension) float32 vectors of n passages, each put to the model as "title text"."""
        joined = [passage_text(title, text) for title, text in zip(titles, texts, strict=True)]
        return self._encode(joined, self.passages)

    def _encode(self, texts: list[str], reading: Reading) -> np.ndarray:
        """(n, dimension) float32 vectors; a block of texts of similar size is read at once, the largest first."""
        vectors = np.zeros((len(texts), self.dimension), dtype=np.float32)
        if not texts:
            return vectors
        # Sizes are in UTF-8 bytes: a token has about three, whether it is three Latin letters or one Chinese character.
        prompt = len(reading.prompt.encode())
        sizes = [prompt + len(text.encode("utf-8", "surrogatepass")) for text in texts]
        order = sorted(range(len(texts)), key=lambda index: -sizes[index])
        module = self.module = self.module or self._module(texts[order[0]], reading)
        start = 0
        while start < len(order):
            longest = min(reading.max_tokens, 2 + sizes[order[start]] // 3)
            block = order[start : start + max(1, BLOCK_TOKENS // longest)]
            start += len(block)
            features = reading.features([texts[index] for index in block])
            vectors[block] = self._vectors(module, features) if reading.is_bag else self._batches(module, features)
        return vectors

    def _batches(self, module: EncoderModule, features: dict[str, Any]) -> np.ndarray:
        """(n, dimension) vectors of n sequences, in batches within the token budget.

        Where memory runs out, the budget is halved for this and all later texts.

        Raises:
            RuntimeError: memory runs out for one text alone.
        """
        from distill.encoders.halving import halved_until_it_fits
        from distill.encoders.read_texts import ReadTexts

        read = ReadTexts(features, self.device)
        vectors = np.empty((len(read.lengths), self.dimension), dtype=np.float32)

        def attempt(tokens: int) -> None:
            for numbers in read.batches(tokens):
                vectors[numbers] = self._vectors(module, read.batch(numbers))

        _, self.batch_tokens = halved_until_it_fits(attempt, self.batch_tokens, int(read.lengths.max()))
        return vectors

    def _vectors(self, module: EncoderModule, features: dict[str, Any]) -> np.ndarray:
        """(B, dimension) vectors of one batch."""
        import torch

        with torch.no_grad():
            return cut(module(**features), self.dimension, normalizes(self.model)).cpu().numpy()

    def _module(self, text: str, reading: Reading) -> EncoderModule:
        """The model as a torch module; a trial on this text and on two prefixes of it chooses how it computes."""
        from distill.encoders.compute.choose import choose_for_reading
        from distill.encoders.module import EncoderModule

        module = EncoderModule(self.model, self.device, self.dtype)
        choose_for_reading(module, reading.features([text, text[: len(text) // 2], text[:40]]))
        return module
