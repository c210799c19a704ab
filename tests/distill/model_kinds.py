"""Tiny models of every kind that people bring as a retriever, saved as the folders that real ones come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.distill.students import save_qwen3
from tests.models import _bert_config, _texts, wordpiece_tokenizer

PROMPTS = {"query": "find the place: ", "document": "about a place: "}

CUSTOM = """
from transformers import BertConfig, BertModel


class PlaceConfig(BertConfig):
    model_type = "place"


class PlaceModel(BertModel):
    config_class = PlaceConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state * 2 + 0.1
        return output
"""


def transformer(folder: Path, seed: int = 0):
    """BERT of two layers and 32 dimensions; weights are spread, so that prompts and pooling change embeddings."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import BertModel

    torch.manual_seed(seed)
    tokenizer = wordpiece_tokenizer()
    BertModel(_bert_config(len(tokenizer), initializer_range=0.2)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Transformer(str(folder), max_seq_length=128)


def save(folder: Path, modules: list, **options) -> str:
    """The folder of a model of these modules."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder / "model"))
    return str(folder / "model")


def pooled(mode: str, *, normalize: bool = True, include_prompt: bool = True, **options) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

        head = [Pooling(32, pooling_mode=mode, include_prompt=include_prompt), *([Normalize()] if normalize else [])]
        return save(folder, [transformer(folder / "bert"), *head], **options)

    return make


def dense(folder: Path) -> str:
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling

    return save(folder, [transformer(folder / "bert"), Pooling(32, pooling_mode="mean"), Dense(32, 24), Normalize()])


def router(folder: Path) -> str:
    """Two towers with weights of their own."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Router

    towers = [
        [transformer(folder / name, seed), Pooling(32, pooling_mode=mode)]
        for name, seed, mode in (("query", 1, "cls"), ("document", 2, "mean"))
    ]
    return save(folder, [Router.for_query_document(*towers), Normalize()], prompts=PROMPTS)


def static(folder: Path) -> str:
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    torch.manual_seed(3)
    return save(folder, [StaticEmbedding(wordpiece_tokenizer(), embedding_dim=32)])


def static_queries(folder: Path) -> str:
    """Queries by a table of words, passages by a transformer."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling, Router, StaticEmbedding

    torch.manual_seed(4)
    passages = [transformer(folder / "bert"), Pooling(32, pooling_mode="mean")]
    return save(
        folder, [Router.for_query_document([StaticEmbedding(wordpiece_tokenizer(), embedding_dim=32)], passages)]
    )


def custom_code(folder: Path) -> str:
    """A transformer with its authors' Python, which is only run where the recipe trusts it."""
    path = pooled("mean")(folder)
    inner = next(file for file in Path(path).rglob("config.json") if "hidden_size" in file.read_text())
    (inner.parent / "place.py").write_text(CUSTOM)
    config = json.loads(inner.read_text())
    config |= {
        "model_type": "place",
        "architectures": ["PlaceModel"],
        "auto_map": {"AutoConfig": "place.PlaceConfig", "AutoModel": "place.PlaceModel"},
    }
    inner.write_text(json.dumps(config))
    return path


def plain_transformer(folder: Path) -> str:
    """What people call "a BERT": no modules.json, so the library takes the mean over tokens."""
    transformer(folder / "bert")
    return str(folder / "bert")


def without_pooling(model: str, folder: Path) -> str:
    """A copy of a model whose modules.json names its transformer alone."""
    path = Path(shutil.copytree(model, folder))
    modules = json.loads((path / "modules.json").read_text())
    (path / "modules.json").write_text(json.dumps(modules[:1]))
    return str(path)


KINDS: dict[str, Callable[[Path], str]] = {
    "mean": pooled("mean"),
    "CLS": pooled("cls"),
    "last token": save_qwen3,
    "weighted mean": pooled("weightedmean"),
    "max": pooled("max"),
    "Dense": dense,
    "Instructor": pooled("mean", include_prompt=False, prompts=PROMPTS),
    "CLS without the prompt": pooled("cls", include_prompt=False, prompts=PROMPTS),
    "default prompt": pooled("mean", prompts={**PROMPTS, "other": "? "}, default_prompt_name="other"),
    "only a query prompt": pooled("mean", prompts={"query": "find: "}),
    "Router": router,
    "Static": static,
    "Static queries": static_queries,
    "truncated": pooled("mean", truncate_dim=16),
    "truncated, inner product": pooled("mean", normalize=False, truncate_dim=16, similarity_fn_name="dot"),
    "inner product": pooled("mean", normalize=False, similarity_fn_name="dot"),
    "cosine without Normalize": pooled("mean", normalize=False, similarity_fn_name="cosine"),
    "plain transformer": plain_transformer,
    "custom code": custom_code,
}


def texts() -> tuple[list[str], list[str]]:
    """Queries and passages of uneven lengths, the longest of them beyond any limit."""
    lines = _texts()
    passages = [" ".join(lines[start : start + count]) for start, count in ((0, 1), (3, 2), (7, 4), (12, 40), (60, 1))]
    return [*lines[40:46], lines[3] * 3], passages
