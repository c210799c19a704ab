"""How a model reads one side of retrieval: texts of queries, or of passages, become the inputs of its modules.

The library's own preprocessing does the work. So the prompt, the route of a model with two towers, and the prompt that
pooling leaves out are those of `SentenceTransformer.encode_query` and `encode_document`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from distill.encoders.positions import most_tokens
from distill.encoders.tokens import CHARACTERS_PER_TOKEN
from distill.encoders.towers import tower
from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Task = Literal["query", "document"]
NO_TEXT = "."  # is read instead of a text of no tokens
# What the library's preprocessing says of a whole batch: where it goes, and how many tokens the prompt has.
CONSTANTS = ("task", "modality", "prompt_length")


@dataclass(frozen=True)
class Reading:
    """One side of retrieval, as one model reads it.

    Attributes:
        model: the encoder, with the prompts "query" and "document".
        task: the side. A model with two towers has a route for each.
        max_tokens: length at which a text is truncated, prompt and special tokens included.
    """

    model: SentenceTransformer
    task: Task
    max_tokens: int

    @classmethod
    def of(cls, model: SentenceTransformer, task: Task, settings: EncoderSettings) -> Reading:
        """The reading that a recipe asks for, within the positions that the model has."""
        wanted = settings.max_query_tokens if task == "query" else settings.max_passage_tokens
        return cls(model, task, most_tokens(model, wanted))

    @property
    def prompt(self) -> str:
        """Prefix of every text."""
        return self.model.prompts[self.task] or ""

    @property
    def is_bag(self) -> bool:
        """Whether the tokens of a text are a bag without order, which no length limits (`StaticEmbedding`)."""
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        return isinstance(tower(self.model, self.task)[0], StaticEmbedding)

    def features(self, texts: Sequence[str]) -> dict[str, Any]:
        """Inputs of the model for B texts, as tensors on the CPU; `(B, T)` where they are sequences."""
        # A tokenizer reads a whole text before it truncates, so texts are cut beforehand.
        end = None if self.is_bag else CHARACTERS_PER_TOKEN * self.max_tokens
        cut = [text[:end] for text in texts]
        features = self._preprocess(cut)
        if self.is_bag:
            return features
        # a tokenizer that adds nothing makes no token of an empty text, and no model reads a sequence of none
        empty = (features["attention_mask"].sum(dim=1) == 0).tolist()
        if not any(empty):
            return features
        return self._preprocess([NO_TEXT if is_empty else text for text, is_empty in zip(cut, empty, strict=True)])

    def token_ids(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`(length,)` int64 ids of the tokens of each text, without padding."""
        features = self.features(texts)
        ids = features["input_ids"].numpy()
        if "offsets" in features:
            return np.split(ids, features["offsets"].numpy()[1:])
        mask = features["attention_mask"].numpy().astype(bool)
        return [row[own] for row, own in zip(ids, mask, strict=True)]

    def constants(self) -> dict[str, Any]:
        """What the modules are told of every batch beside its tokens."""
        features = self._preprocess(["a"])
        return {name: features[name] for name in CONSTANTS if name in features}

    def _preprocess(self, texts: list[str]) -> dict[str, Any]:
        if not self.is_bag:
            tower(self.model, self.task)[0].max_seq_length = self.max_tokens
        return self.model.preprocess(texts, prompt=self.prompt or None, task=self.task)
