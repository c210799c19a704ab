"""Recipe section `retrieval`: the retrievers, and how their runs are fused."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from cluster.settings import PoolSettings, Settings
from distill.settings.encoders import EncoderSettings
from distill.settings.languages import ENGLISH, IN_NGRAMS, NO_STEMMER, STEMMERS


class Bm25Settings(Settings):
    """How BM25 reads texts."""

    language: str | None = Field(
        None,
        description="of bm25: language of its stemmer and stop words, or none for words as they are; empty: that of "
        "the corpus, where it reads words",
    )
    tokenizer: Literal["words", "ngrams"] | None = Field(
        None,
        description="of bm25: words, or n-grams of two and three characters, for languages without spaces such as "
        "Chinese, Japanese and Thai; empty: as the language of the corpus asks for",
    )

    @model_validator(mode="after")
    def _bm25_knows_the_language(self) -> Self:
        if self.language is None:
            return self
        import Stemmer

        if self.language not in (known := [NO_STEMMER, *Stemmer.algorithms()]):
            raise ValueError(
                f"language '{self.language}' has no stemmer; there are {', '.join(known)}. For a language without "
                "spaces between words, set tokenizer: ngrams and no language"
            )
        if self.tokenizer == "ngrams":
            raise ValueError("tokenizer ngrams reads every language alike; leave out `language`")
        return self

    def in_language(self, code: str) -> Self:
        """These settings as they are, where they name language or tokenizer; otherwise those of a corpus's language."""
        if self.language or self.tokenizer or code == ENGLISH:
            return self
        if code in IN_NGRAMS:
            return self.model_copy(update={"tokenizer": "ngrams"})
        return self.model_copy(update={"language": STEMMERS.get(code, NO_STEMMER)})

    def reads(self) -> dict[str, str]:
        """Language and tokenizer, as far as they differ from English words."""
        named = {"language": self.language, "tokenizer": self.tokenizer}
        return {field: value for field, value in named.items() if value not in (None, "english", "words")}


class RetrieverSettings(Bm25Settings):
    """One retriever that proposes candidates."""

    kind: Literal["dense", "bm25"]
    encoder: EncoderSettings | None = Field(None, description="of a dense retriever; empty: the student's base")
    index: Literal["exact", "ivf", "hnsw"] = Field(
        "exact", description="of a dense retriever: exact search, or an approximate index that each machine builds once"
    )
    lists: int | None = Field(None, ge=1, description="of ivf: clusters of passages; empty: 2 × √passages")
    nprobe: int = Field(32, ge=1, description="of ivf: clusters that a query looks into, the nearest first")
    m: int = Field(32, ge=2, le=256, description="of hnsw: neighbours that a passage is linked with")
    ef_search: int = Field(512, ge=1, description="of hnsw: passages that a search keeps in view, at least depth")
    pool: PoolSettings = PoolSettings()

    @model_validator(mode="after")
    def _fields_have_an_effect(self) -> RetrieverSettings:
        if self.kind != "dense" and self.index != "exact":
            raise ValueError(f"index {self.index} is for a dense retriever, and this one is of kind {self.kind}")
        owners = {"lists": "ivf", "nprobe": "ivf", "m": "hnsw", "ef_search": "hnsw"}
        _refuse_without_effect(
            self, {field: f"index: {owner}" for field, owner in owners.items() if owner != self.index}
        )
        if self.kind != "bm25":
            _refuse_without_effect(self, {"language": "kind: bm25", "tokenizer": "kind: bm25"})
        return self

    def identity(self) -> Any:
        """What changes the hits, apart from vectors: the kind alone, or the kind and settings unlike the default."""
        fields = {"ivf": ("lists", "nprobe"), "hnsw": ("m", "ef_search"), "exact": ()}[self.index]
        named = {"index": self.index, **{field: getattr(self, field) for field in fields}} if fields else self.reads()
        return {"kind": self.kind, **named} if named else self.kind


def _refuse_without_effect(settings: Settings, needs: dict[str, str]) -> None:
    """Refuses fields that differ from their default though what they belong to is not chosen.

    Args:
        settings: the section.
        needs: field → what it needs.
    """
    defaults = type(settings).model_fields
    if idle := [
        f"`{name}` needs {need}" for name, need in needs.items() if getattr(settings, name) != defaults[name].default
    ]:
        raise ValueError("; ".join(idle))


class RetrievalSettings(Settings):
    """Retrievers of candidates, depth of their runs, and how the runs are fused."""

    retrievers: dict[str, RetrieverSettings] = Field(
        {"student": RetrieverSettings(kind="dense"), "bm25": RetrieverSettings(kind="bm25")}, min_length=1
    )
    depth: int = Field(100, ge=1, description="passages per retriever and query, and of the fused list")
    rrf_k: int = Field(60, ge=1, description="constant of reciprocal rank fusion")
    leave_out_judged: bool = Field(
        False, description="leave passages that the evaluation judges out of the candidates, and so out of lists"
    )
    round_trip_rank: int = Field(20, ge=1, description="a synthetic query stays if its source is in the top ranks")
    min_candidates: int = Field(20, ge=1, description="queries with fewer candidates are dropped")
    index_rows: int = Field(200_000, ge=1, description="passages in one FAISS shard")
    index_cache_mib: int = Field(
        4096, ge=0, description="passage vectors that a worker keeps in memory; it reads the rest again for every shard"
    )
    rows_per_shard: int = Field(2_000, ge=1, description="queries per shard")
