"""Recipe sections `corpus` and `generation`: what is read, what is kept, and who writes the queries."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.settings import PoolSettings, Settings

QueryType = Literal["question", "claim", "title", "keywords", "search", "web_search"]
QUERY_TYPES: tuple[QueryType, ...] = ("question", "claim", "title", "keywords", "search", "web_search")


class CorpusSettings(Settings):
    """Where the passages come from, and which of them queries may be written for."""

    path: str = Field(description="BEIR folder, JSONL/CSV/Parquet file or folder, hf://DATASET, or pydocs://PACKAGES")
    format: Literal["auto", "beir", "jsonl", "csv", "parquet", "hf", "pydocs"] = "auto"
    hf_config: str | None = Field(None, description="configuration of a Hugging Face dataset")
    hf_split: str = Field("train", description="split of a Hugging Face dataset")
    id_field: str | None = Field(None, description="field of the passage id; empty: _id, id, docid or passage_id")
    title_field: str = "title"
    text_field: str | None = Field(None, description="field of the passage text; empty: text, contents or passage")
    query_log: str | None = Field(None, description="JSONL of real queries to mix in: {_id, text}; no labels needed")
    min_characters: int = Field(10, ge=1, description="shorter passages are dropped")
    max_characters: int = Field(100_000, ge=100, description="longer passages are cut here, and counted")
    max_passages: int | None = Field(None, ge=1, description="read no more than this many records")
    max_sources: int = Field(100_000, ge=1, description="passages that queries are written for, sampled")
    exclude_judged_sources: bool = Field(True, description="never write a query for a passage the evaluation judges")
    rows_per_shard: int = Field(20_000, ge=1)
    seed: int = 0


class GenerationSettings(Settings):
    """The engine that writes queries, and what it is asked for."""

    engine: Literal["vllm", "openai", "extractive"] = "extractive"
    model: str | None = Field(None, description="model id or path; required by vllm and openai")
    query_types: list[QueryType] = Field(list(QUERY_TYPES), min_length=1)
    samples: int = Field(1, ge=1, description="queries per passage and type")
    examples: int = Field(3, ge=0, le=3, description="most example pairs shown in a prompt")
    prompt_characters: int = Field(2048, ge=64, description="passage text is cut here in the prompt")
    temperature: float = Field(0.8, ge=0)
    max_tokens: int = Field(50, ge=1)
    min_query_characters: int = Field(3, ge=1, description="shorter queries are dropped")
    near_duplicates: float | None = Field(
        0.85, ge=0.5, le=1, description="queries this similar to an earlier one of the run are dropped; null keeps all"
    )
    max_model_len: int | None = Field(4096, description="context of the vLLM engine, tokens")
    tensor_parallel: int = Field(1, ge=1, description="GPUs of one vLLM engine")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="further vLLM engine arguments")
    trust_remote_code: bool = False
    base_url: str | None = Field(None, description="OpenAI-compatible server; the key comes from OPENAI_API_KEY")
    concurrency: int = Field(256, ge=1, description="requests in flight per worker")
    pool: PoolSettings = PoolSettings()
    rows_per_shard: int = Field(512, ge=1, description="source passages per shard")
    seed: int = 0

    @model_validator(mode="after")
    def _model_is_named(self) -> GenerationSettings:
        if self.engine != "extractive" and not self.model:
            raise ValueError(f"engine '{self.engine}' needs generation.model, a model id or path")
        if self.engine == "openai" and not self.base_url:
            raise ValueError("engine 'openai' needs generation.base_url, the address of the server")
        return self
