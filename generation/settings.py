"""Recipe sections `corpus` and `generation`: what is read, what is kept, and who writes the queries."""

from __future__ import annotations

import difflib
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.delimited import Quoting
from cluster.settings import PoolSettings, Settings
from generation.judging.settings import JudgeSettings
from generation.language.names import AUTO, known_codes, language_code, language_name
from generation.masking import Personal, known_regions
from generation.sources.settings import BudgetSettings, NeighbourSettings, SourceSettings

NEAR_DUPLICATES = 0.85  # Jaccard index of character 4-grams from which two queries are the same
CHUNKS_ALIKE = 0.9  # and two chunks: navigation, licences, copies of a page
QUERY_TYPES = ("question", "claim", "title", "keywords", "search", "web_search")  # those of the papers

Temperature = Annotated[float | None, Field(ge=0, description="0 always takes the likeliest token")]
Penalty = Annotated[float | None, Field(ge=-2, le=2, description="taken from the logits of tokens that were written")]


def _known_language(language: str) -> str:
    language_name(language)  # raises a ValueError where there is no such code
    return language


Language = Annotated[str, AfterValidator(_known_language)]


def _known_code(language: str) -> str:
    if language != AUTO and (code := language_code(language)) not in known_codes():
        raise ValueError(
            f"'{language}' ({code}) is no language known here; expected auto or {', '.join(known_codes())}"
        )
    return language


class Sampling(Settings):
    """How tokens are drawn; what is empty is the recipe's, and then the engine's. Every engine has the same names."""

    temperature: Temperature = None
    top_p: float | None = Field(None, gt=0, le=1, description="draw among the likeliest tokens with this sum")
    top_k: int | None = Field(None, ge=1, description="draw among so many tokens")
    min_p: float | None = Field(None, ge=0, le=1, description="least probability, as a part of the likeliest token's")
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    repetition_penalty: float | None = Field(
        None, gt=0, le=2, description="divides the logits of tokens that prompt or answer hold"
    )


class JudgedQuerySettings(Settings):
    """Judged queries that the student may learn from."""

    dataset: str = Field(
        description="BEIR folder with queries.jsonl and qrels/SPLIT.tsv, whose passages the corpus has"
    )
    split: str = Field("train", min_length=1, description="name of the qrels file")
    least_grade: int = Field(1, ge=1, description="grade from which a passage is relevant")


class CorpusSettings(Settings):
    """Where the passages come from, and which of them queries may be written for."""

    path: str = Field(
        description="BEIR folder, JSONL/CSV/Parquet file or folder, folder of .txt/.md/.html/.pdf/.docx documents, "
        "hf://DATASET, or pydocs://PACKAGES"
    )
    format: Literal["auto", "beir", "jsonl", "csv", "parquet", "documents", "hf", "pydocs"] = "auto"
    chunk_tokens: int | None = Field(
        None,
        ge=16,
        description="most tokens of a chunk, by the student's tokenizer, with title and prompt; empty: documents are "
        "cut to student.max_passage_tokens, and records stay whole",
    )
    chunk_overlap: int | None = Field(
        None, ge=0, description="most tokens of sentences that a chunk repeats of the one before; empty: an eighth"
    )
    near_duplicates: Literal["auto"] | Annotated[float, Field(ge=0.5, le=1)] | None = Field(
        "auto",
        description="passages whose text is so similar to an earlier one's are dropped; null keeps all; auto: 0.9 "
        "where documents are cut, null for records",
    )
    language: Annotated[str, AfterValidator(_known_code)] = Field(
        AUTO,
        description="of the passages, a code such as ja or de; it says where sentences and words end for extraction, "
        "and how BM25 reads; auto: the language that most of 200 passages are in",
    )
    hf_config: str | None = Field(None, description="configuration of a Hugging Face dataset")
    hf_split: str = Field("train", description="split of a Hugging Face dataset")
    id_field: str | None = Field(None, description="field of the passage id; empty: _id, id, docid or passage_id")
    title_field: str = "title"
    text_field: str | None = Field(None, description="field of the passage text; empty: text, contents or passage")
    quoting: Quoting = Field(
        "auto",
        description="CSV and TSV. double: a quote begins a quoted field; none: it is text; auto: the file shows it",
    )
    columns: list[str] | None = Field(
        None, min_length=2, description="names of the columns of CSV and TSV files that have no header line"
    )
    query_log: str | None = Field(None, description="JSONL of real queries to mix in: {_id, text}; no labels needed")
    query_log_mask: list[Personal] = Field(
        ["email", "phone", "card"], description="what is replaced by <email>, <phone>, <card> in the log, and counted"
    )
    query_log_phone_regions: list[str] = Field(
        ["US", "GB", "DE", "FR"], description="countries whose national phone numbers are masked; +… always are"
    )
    judged_queries: JudgedQuerySettings | None = Field(
        None, description="queries with judgements to learn from; those that the evaluation judges are left out"
    )
    min_characters: int = Field(10, ge=1, description="shorter passages are dropped")
    max_characters: int = Field(100_000, ge=100, description="longer passages are cut here, and counted")
    max_passages: int | None = Field(None, ge=1, description="read no more than this many records")
    max_sources: int = Field(100_000, ge=1, description="most passages that queries are written for")
    sources: SourceSettings = Field(
        SourceSettings(), description="which passages these are; a random sample by default"
    )
    exclude_judged_sources: bool = Field(True, description="never write a query for a passage the evaluation judges")
    rows_per_shard: int = Field(20_000, ge=1)
    seed: int = 0

    @property
    def distinct_from(self) -> float | None:
        """Jaccard index from which two chunks are the same; None keeps all."""
        return CHUNKS_ALIKE if self.near_duplicates == "auto" else self.near_duplicates

    @field_validator("query_log_phone_regions")
    @classmethod
    def _regions_are_known(cls, regions: list[str]) -> list[str]:
        if unknown := [region for region in regions if region not in known_regions()]:
            raise ValueError(
                f"{', '.join(map(repr, unknown))}: expected two-letter codes of countries, such as US or DE"
            )
        return regions

    @model_validator(mode="after")
    def _sources_have_what_they_need(self) -> CorpusSettings:
        if self.sources.by == "query_log" and self.query_log is None:
            raise ValueError("sources: by 'query_log' needs corpus.query_log, a file of real queries")
        return self


class GenerationSettings(Sampling):
    """One engine that writes queries, and what it is asked for. A recipe may have several of these sections."""

    engine: Literal["vllm", "openai", "extractive"] = "extractive"
    model: str | None = Field(
        None, description="model id, folder or GGUF file; the name that a server knows; required by vllm and openai"
    )
    lora: str | None = Field(None, description="LoRA adapter of the vLLM engine's model, folder or hub id")
    lora_revision: str | None = Field(None, description="commit, branch or tag of an adapter of the hub")
    share: float = Field(1.0, gt=0, le=1, description="of the source passages, that this section writes for")
    temperature: Temperature = 0.8
    query_types: list[str] = Field(list(QUERY_TYPES), min_length=1)
    types_folder: str | None = Field(None, description="folder of query types of your own, one YAML file each")
    weights: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="queries of a type per passage and sample, instead of the type's own weight"
    )
    samples: int = Field(1, ge=1, description="queries per passage and type of weight 1")
    prompt: Literal["auto", "chat", "completion"] = Field(
        "auto", description="auto tries both where the model has a chat template, and keeps what gives more queries"
    )
    layout: Literal["auto", "type_first", "passage_first", "json"] = Field(
        "auto",
        description="what a prompt begins with, which engines compute once: the type and its examples, or the passage; "
        "json asks for all types of a passage in one answer; auto: what leaves less to compute and loses no queries",
    )
    about: str | None = Field(None, description="what the passages are and who asks; in every prompt")
    language: Language | None = Field(None, description="of the queries, a code such as de or a name; empty: not said")
    examples: int = Field(3, ge=0, le=3, description="most example pairs shown in a prompt")
    example_sets: int | None = Field(
        4, ge=1, description="different sets of examples per type, whose prompts share a prefix; empty: any of the pool"
    )
    examples_file: str | None = Field(
        None, description="JSONL or YAML of your own examples, {passage, query, type}, instead of a type's"
    )
    system_prompt: str | None = Field(None, description="system message of a chat, or first paragraph of a completion")
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the chat template")
    prompt_characters: int = Field(2048, ge=64, description="passage text is cut here in the prompt")
    neighbours: NeighbourSettings = Field(
        NeighbourSettings(), description="of query types with hops: 2, which ask for a passage and its neighbour"
    )
    budget: BudgetSettings | None = Field(
        None, description="queries, gpu_hours or worker_hours, from which the number of sources follows"
    )
    max_tokens: int = Field(50, ge=1)
    min_query_characters: int = Field(3, ge=1, description="shorter queries are dropped")
    near_duplicates: Literal["auto"] | Annotated[float, Field(ge=0.5, le=1)] | None = Field(
        "auto",
        description="queries whose similarity to an earlier one of the run reaches this are dropped; null keeps all; "
        "auto: 0.85 where a language model writes, null for extraction, whose queries are parts of their passages",
    )
    judge: JudgeSettings | None = Field(None, description="a language model's second look at what was written")
    max_model_len: int | None = Field(4096, description="context of the vLLM engine, tokens")
    tensor_parallel: int = Field(1, ge=1, description="GPUs of one vLLM engine")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="further vLLM engine arguments")
    revision: str | None = Field(None, description="commit, branch or tag of a hub model; empty: its main branch")
    trust_remote_code: bool = False
    base_url: str | None = Field(None, description="OpenAI-compatible server; the key comes from OPENAI_API_KEY")
    request_seeds: bool = Field(True, description="seed every request; false for a server that takes none")
    timeout_s: float = Field(300.0, gt=0, description="longest wait for one answer of a server")
    patience_s: float = Field(600.0, ge=0, description="longest time that a server may be down or busy")
    requests_per_minute: int | None = Field(None, ge=1, description="to the server, by all workers together")
    tokens_per_minute: int | None = Field(None, ge=1, description="read and written, by all workers together")
    concurrency: int = Field(256, ge=1, description="requests in flight per worker")
    pool: PoolSettings = PoolSettings()
    rows_per_shard: int = Field(512, ge=1, description="source passages per shard")
    seed: int = 0

    @property
    def distinct_from(self) -> float | None:
        """Jaccard index from which two queries of the run are the same; None keeps all."""
        if self.near_duplicates == "auto":
            return None if self.engine == "extractive" else NEAR_DUPLICATES
        return self.near_duplicates

    @model_validator(mode="after")
    def _model_is_named(self) -> GenerationSettings:
        if self.engine != "extractive" and not self.model:
            raise ValueError(f"engine '{self.engine}' needs generation.model, a model id or path")
        if self.engine == "openai" and not self.base_url:
            raise ValueError("engine 'openai' needs generation.base_url, the address of the server")
        if self.lora and self.engine != "vllm":
            raise ValueError(f"generation.lora is for the engine vllm, and the engine is '{self.engine}'")
        if self.lora_revision and not self.lora:
            raise ValueError("generation.lora_revision is of generation.lora, and that is empty")
        if self.revision and self.engine != "vllm":
            raise ValueError(f"generation.revision is for the engine vllm, and the engine is '{self.engine}'")
        return self

    @model_validator(mode="after")
    def _hours_are_of_what_works(self) -> GenerationSettings:
        holds_gpus = bool(self.pool.gpus) or (self.engine == "vllm" and self.tensor_parallel > 1)
        if self.budget and self.budget.gpu_hours is not None and not holds_gpus:
            raise ValueError(
                "budget: `gpu_hours` needs workers with GPUs, and generation.pool.gpus is 0; set it, or set "
                "budget.worker_hours, the hours of one worker"
            )
        return self

    @model_validator(mode="after")
    def _types_are_known(self) -> GenerationSettings:
        """Those of a folder are looked at when the run begins, since a recipe is read where the folder is not, too."""
        if self.types_folder is None:
            for name in self.query_types:
                if name not in shipped_types():
                    raise ValueError(unknown_type(name, shipped_types()))
        if doubled := {name for name in self.query_types if self.query_types.count(name) > 1}:
            raise ValueError(
                f"query_types names {', '.join(sorted(doubled))} twice; for more of a type set its weight in "
                "generation.weights"
            )
        for name in self.weights:
            if name not in self.query_types:
                raise ValueError(f"weights: {unknown_type(name, tuple(self.query_types))}")
        return self

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn where a type does not say."""
        return Sampling(**self.model_dump(include=set(Sampling.model_fields)))


@cache
def shipped_types() -> tuple[str, ...]:
    """Names of the query types that come with listwise: the papers' six, then the others by name."""
    folder = resources.files("generation") / "prompts" / "types"
    names = {entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    return (*QUERY_TYPES, *sorted(names - set(QUERY_TYPES)))


def unknown_type(name: str, known: tuple[str, ...]) -> str:
    """What is said of a query type that is none of `known`."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"there is no query type '{name}'; " + (
        f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
    )
