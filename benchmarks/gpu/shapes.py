"""Random models with the shapes of well-known ones, saved as sentence-transformers, with a tokenizer of numbers.

A word is a number, and a token; so a text has as many tokens as words, beside the special ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


@dataclass(frozen=True)
class Shape:
    """The shape of a transformer.

    Attributes:
        kind: architecture: "bert", "modernbert" or "qwen3".
        hidden, layers, heads, inner: as the configurations of transformers call them.
        words: of the vocabulary, beside the special tokens. It costs memory and no time.
        key_heads: heads of keys and values; qwen3 alone has fewer of them.
        head: width of a head; qwen3 alone has another one than hidden / heads.
    """

    kind: str
    hidden: int
    layers: int
    heads: int
    inner: int
    words: int = 30_000
    key_heads: int = 0
    head: int = 0


SHAPES = {
    "bert-base": Shape("bert", 768, 12, 12, 3072),
    "modernbert-base": Shape("modernbert", 768, 22, 12, 1152),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 3072, key_heads=8, head=128),
}
TINY = {
    "bert-base": Shape("bert", 64, 2, 4, 128, words=500),
    "modernbert-base": Shape("modernbert", 64, 3, 4, 96, words=500),
    "qwen3-0.6b": Shape("qwen3", 64, 2, 4, 128, words=500, key_heads=2, head=16),
}


def shapes(dry: bool) -> dict[str, Shape]:
    """The shapes by the names of the models; tiny ones of the same kinds for a dry run."""
    return TINY if dry else SHAPES


def save_encoder(shape: Shape, folder: Path, longest: int) -> str:
    """Saves a sentence-transformer with random weights; returns its folder.

    Args:
        shape: of the transformer.
        folder: that is made.
        longest: tokens that it reads.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.manual_seed(0)
    model = _model(shape, longest)
    model.save_pretrained(folder / "transformer")
    _tokenizer(shape, longest).save_pretrained(folder / "transformer")
    transformer = Transformer(str(folder / "transformer"), max_seq_length=longest)
    pooling = Pooling(shape.hidden, pooling_mode="lasttoken" if shape.kind == "qwen3" else "mean")
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(str(folder / "encoder"))
    return str(folder / "encoder")


def save_reranker(shape: Shape, folder: Path, longest: int) -> str:
    """Saves a BERT with a random head of one label; returns its folder."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification(_bert(shape, longest, num_labels=1)).save_pretrained(folder)
    _tokenizer(shape, longest).save_pretrained(folder)
    return str(folder)


def _bert(shape: Shape, longest: int, **more: Any) -> Any:
    from transformers import BertConfig

    return BertConfig(
        vocab_size=shape.words + len(SPECIAL), hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.inner, max_position_embeddings=longest, **more,
    )  # fmt: skip


def _model(shape: Shape, longest: int) -> Any:
    from transformers import BertModel, ModernBertConfig, ModernBertModel, Qwen3Config, Qwen3Model

    if shape.kind == "bert":
        return BertModel(_bert(shape, longest))
    common: dict[str, Any] = {
        "vocab_size": shape.words + len(SPECIAL), "hidden_size": shape.hidden, "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads, "intermediate_size": shape.inner, "max_position_embeddings": longest,
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
    }  # fmt: skip
    if shape.kind == "modernbert":
        return ModernBertModel(ModernBertConfig(**common, cls_token_id=2, sep_token_id=3))
    return Qwen3Model(Qwen3Config(**common, num_key_value_heads=shape.key_heads, head_dim=shape.head))


def _tokenizer(shape: Shape, longest: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    numbers = {token: number for number, token in enumerate([*SPECIAL, *map(str, range(shape.words))])}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=longest, padding_side="left" if shape.kind == "qwen3" else "right",
    )  # fmt: skip
