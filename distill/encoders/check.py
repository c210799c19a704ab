"""The check of an encoder before anything is paid for: it is loaded, reads, and is compared with its own library.

The encoder reads a long text and two short ones as it will in the run, and as `SentenceTransformer.encode_query` and
`encode_document` do. What will be trained is also laid out as in training, and has its gradient computed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.errors import InputError
from distill.encoders.encoder import Encoder
from distill.encoders.lora import add_adapters
from distill.settings.encoders import EncoderSettings, StudentSettings

if TYPE_CHECKING:
    pass

LEAST_COSINE = {"float32": 0.9999, "bfloat16": 0.99, "float16": 0.99}  # of our vector and the library's
_SENTENCE = "The harbour of the old town has seven stone bridges, two mills and a market that opens at six. "
QUERIES = ["bridge", (_SENTENCE * 40).strip(), "When does the market of the old town open?"]
PASSAGES = ["A mill.", (_SENTENCE * 400).strip(), _SENTENCE.strip()]


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        dimension: of the vectors.
        similarity: "cosine" or "dot".
        query_prompt, passage_prompt: put before every text.
        query_tokens, passage_tokens: most tokens that are read of a text.
        cosine: least cosine between our vector of a text and the library's.
        length: mean length of the vectors; 1 for cosines.
    """

    dimension: int
    similarity: str
    query_prompt: str
    passage_prompt: str
    query_tokens: int
    passage_tokens: int
    cosine: float
    length: float

    def remarks(self, settings: EncoderSettings) -> Iterator[str]:
        """What a person should know, each in a sentence."""
        for kind, wanted, most in (
            ("queries", settings.max_query_tokens, self.query_tokens),
            ("passages", settings.max_passage_tokens, self.passage_tokens),
        ):
            if most < wanted:
                yield f"{kind} are cut at {most} tokens and not at {wanted}: the model has no more positions"
        if isinstance(settings, StudentSettings) and self.similarity == "dot":
            scale = self.length**2
            yield (
                f"its similarity is the inner product, of up to {scale:.3g} here, and the temperatures of training are "
                f"meant for cosines: multiply student_temperature and contrastive_temperature by about {scale:.2g}, or "
                "set student.normalize: true to train cosines"
            )


def check_encoder(settings: EncoderSettings, device: str | None = None) -> Checked:
    """Checks an encoder; a student also in training.

    Args:
        settings: the encoder, or the student.
        device: "cpu" or "cuda"; None takes a GPU if the process has one.

    Raises:
        InputError: it cannot be loaded or cannot read, gives other vectors than its library, or has no gradient.
    """
    encoder = Encoder(settings, device)
    try:
        # in turns, since each side leaves its length in the model
        queries, library_queries = encoder.encode_queries(QUERIES), encoder.model.encode_query(QUERIES)
        passages = encoder.encode_passages([""] * len(PASSAGES), PASSAGES)
        library_passages = encoder.model.encode_document(PASSAGES)
        found = np.concatenate([queries, passages])
        if not np.isfinite(found).all():
            raise InputError(
                f"model '{settings.model}' gives vectors that are not finite in {encoder.dtype}. Set dtype: float32."
            )
        if isinstance(settings, StudentSettings):
            _train(encoder, settings)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # of any model's code
        if "out of memory" in str(error).lower():
            raise
        raise InputError(
            f"model '{settings.model}' was loaded, but cannot read a text: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:300]} Expected an encoder whose tokenizer and weights belong together."
        ) from error
    cosine = min(_least_cosine(queries, library_queries), _least_cosine(passages, library_passages))
    dtype = str(encoder.dtype).removeprefix("torch.")
    if cosine < LEAST_COSINE[dtype]:
        raise InputError(
            f"model '{settings.model}' is not encoded as sentence-transformers does: the cosine of both vectors of a "
            f"text falls to {cosine:.4f} in {dtype}. Set dtype: float32; if that does not help, this kind of model is "
            "not supported, so report it."
        )
    return Checked(
        encoder.dimension, str(encoder.model.similarity_fn_name), encoder.queries.prompt, encoder.passages.prompt,
        encoder.queries.max_tokens, encoder.passages.max_tokens, cosine, float(np.linalg.norm(found, axis=1).mean()),
    )  # fmt: skip


def _least_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    products = (ours * theirs).sum(axis=1)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(np.divide(products, lengths, out=np.ones_like(products), where=lengths > 0).min())


def _train(encoder: Encoder, settings: StudentSettings) -> None:
    """One gradient of one micro-batch, laid out as in training.

    Raises:
        InputError: no weight has a gradient, or it is not finite.
    """
    import torch

    from distill.encoders.layout import Layout, pad_token
    from distill.encoders.module import EncoderModule
    from distill.encoders.tokens import TokenFile, write_tokens

    if settings.lora:
        add_adapters(encoder.model, settings.lora, seed=0)
    module = EncoderModule(encoder.model, encoder.device, encoder.dtype)
    layout, embeddings = Layout(pad_token(encoder.model)), list[torch.Tensor]()
    with tempfile.TemporaryDirectory() as folder, torch.enable_grad():
        for reading, texts in ((encoder.queries, QUERIES), (encoder.passages, PASSAGES)):
            path = Path(folder, reading.task)
            write_tokens(path, texts, reading.token_ids)
            file = TokenFile(path, constants=reading.constants(), is_bag=reading.is_bag)
            embeddings.append(module(**layout.features(file, np.arange(len(texts)))))
        loss = (embeddings[0] @ embeddings[1].T).logsumexp(dim=1).sum()
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        gradients = torch.autograd.grad(loss, weights, allow_unused=True) if loss.requires_grad else []
    known = [gradient for gradient in gradients if gradient is not None]
    if not known or not all(bool(torch.isfinite(gradient).all()) for gradient in known):
        what = "a gradient that is not finite" if known else "no gradient"
        raise InputError(f"model '{settings.model}' cannot be trained: its weights have {what}.")
