"""A cross-encoder as a teacher: a model that reads query and passage together and scores the pair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.errors import InputError
from cluster.machines.malloc import keep_freed_memory
from distill.encoders.device import default_device, resolve_dtype
from distill.encoders.loading import load_safetensors, resolve_model
from distill.encoders.padding import give_padding
from distill.encoders.positions import most_tokens
from distill.settings.teachers import TeacherSettings
from distill.teachers.pair_reader import PairReader
from distill.teachers.pairs import Pair
from distill.teachers.predict_reader import PredictReader
from distill.teachers.template import shipped

if TYPE_CHECKING:
    import torch
    from sentence_transformers import CrossEncoder


class CrossEncoderScorer:
    """Scorer with a reranker: any sequence-classification model that sentence-transformers can load.

    The score of a model with one label is its logit. With two labels it is the log-odds of the second label, which
    means relevant.

    Args:
        settings: the model, its maximum length and its batch size.
        device: "cpu" or "cuda"; None takes a GPU if the process has one.

    Attributes:
        model: the reranker as sentence-transformers knows it.
        reader: what computes it: ours for a transformer with a classifier behind it; `predict` of
            sentence-transformers for a model with other modules, prompts or a chat template.

    Raises:
        InputError: the model cannot be loaded, reads pairs in a template that nobody named, or has over two labels.
    """

    def __init__(self, settings: TeacherSettings, device: str | None = None) -> None:
        self.device = device or default_device()
        if self.device == "cpu":
            keep_freed_memory()
        self.model = load_cross_encoder(settings, self.device)
        self.reader: PairReader | PredictReader = (
            PairReader(self.model, settings, self.device)
            if PairReader.fits(self.model)
            else PredictReader(self.model, settings)
        )

    def score(self, pairs: Sequence[Pair]) -> np.ndarray:
        """(n,) float32 raw scores; NaN for a pair whose query leaves no room for a passage.

        A batch that runs out of memory is halved. Later calls begin with the halved size.

        Raises:
            RuntimeError: one pair alone runs out of memory.
        """
        return self.reader.score(pairs)

    def shown(self, pair: Pair) -> str:
        """What the model reads of a pair."""
        return self.reader.shown(pair)

    def take_tokens(self) -> int:
        """Tokens that the model has read since the last call."""
        return self.reader.take_tokens()


def load_cross_encoder(settings: TeacherSettings, device: str) -> CrossEncoder:
    """Loads a reranker in its dtype; its last layer computes in float32, because bfloat16 scores would have ties.

    Raises:
        InputError: the model cannot be found, is not a reranker, has more than two labels, stores its weights in a
            pickle, or comes with code that the recipe does not trust.
    """
    import torch

    assert settings.model is not None, "checked by the recipe"

    def construct(path: str, model_kwargs: dict[str, Any]) -> CrossEncoder:
        from sentence_transformers import CrossEncoder

        _refuse_without_template(settings, path)
        return CrossEncoder(
            path,
            device=device,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            model_kwargs=model_kwargs,
        )

    model = load_safetensors(
        construct,
        settings.model,
        settings.revision,
        resolve_dtype(settings.dtype, device),
        role="teacher model",
        expected="a sequence-classification model: a folder with safetensors weights, or an id that the hub or its "
        "local cache has",
        output=_logits,
    )
    give_padding(model.tokenizer)
    if model.num_labels > 2:
        raise InputError(
            f"teacher model '{settings.model}' has {model.num_labels} labels; "
            "a reranker has one (a relevance score) or two (irrelevant, relevant)."
        )
    folder = Path(resolve_model(settings.model, settings.revision))
    if not (folder / "modules.json").is_file() and hasattr(model[0].model, "score"):
        raise InputError(
            f"teacher model '{settings.model}' is a causal language model with a classification head. Such a model "
            f"reads pairs in the template that it was taught. Set `template` to one of {_families()}, or to a text "
            "with {query} and {passage}."
        )
    model.max_length = most_tokens(model, min(settings.max_tokens, model.max_length or settings.max_tokens))
    heads = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and module.out_features == model.num_labels
    ]
    if heads:
        model.set_keep_in_fp32_modules(heads[-1:])
    return model.eval()


def _logits(model: CrossEncoder) -> torch.Tensor:
    assert model.model is not None, "a model of transformers has absent weights"
    return model.model(**model.tokenizer("a query", "a passage", return_tensors="pt").to(model.device)).logits


def _refuse_without_template(settings: TeacherSettings, path: str) -> None:
    """Refuses a causal model that has no prompt of its own: it would read bare texts, which it was not taught."""
    from transformers import AutoConfig

    if Path(path, "modules.json").is_file():
        return  # saved by sentence-transformers, with the prompt and the score of its authors
    try:
        config = AutoConfig.from_pretrained(
            path, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError):
        return  # sentence-transformers says what is wrong with it
    names = list(config.architectures or [])
    if any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        raise InputError(
            f"teacher model '{settings.model}' is {' and '.join(names)}, a causal language model and no classifier. "
            f"Set `kind: causal`, with the template that it was taught ({_families()}, or a text of your own)."
        )


def _families() -> str:
    return ", ".join(name for name, one in shipped().items() if one.kind == "causal")
