"""Recipe sections of distillation: retrieval, teachers, lists, student, training, evaluation."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from cluster.disclosure import is_secret_variable
from cluster.settings import PoolSettings, Settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderSettings(Settings):
    """A dense encoder: its model, and how texts are prepared for it."""

    model: str = Field(description="sentence-transformers or transformers model, id or path")
    query_prompt: str | None = Field(None, description="prefix of queries; empty: that of the model, if it has one")
    passage_prompt: str | None = Field(None, description="prefix of passages; empty: that of the model, if it has one")
    max_query_tokens: int = Field(64, ge=8)
    max_passage_tokens: int = Field(256, ge=8)
    batch_tokens: int = Field(16_384, ge=256, description="tokens in a forward pass when encoding")
    dtype: Dtype = Field("auto", description="auto: bfloat16 on devices that are faster with it")
    trust_remote_code: bool = False


class Bm25Settings(Settings):
    """How BM25 reads texts."""

    language: str | None = Field(
        None, description="of bm25: language of its stemmer and stop words; empty: english, where it reads words"
    )
    tokenizer: Literal["words", "ngrams"] | None = Field(
        None,
        description="of bm25: words, or n-grams of two and three characters, for languages without spaces such as "
        "Chinese, Japanese and Thai; empty: words",
    )

    @model_validator(mode="after")
    def _bm25_knows_the_language(self) -> Self:
        if self.language is None:
            return self
        import Stemmer

        if self.language not in (known := Stemmer.algorithms()):
            raise ValueError(
                f"language '{self.language}' has no stemmer; there are {', '.join(known)}. For a language without "
                "spaces between words, set tokenizer: ngrams and no language"
            )
        if self.tokenizer == "ngrams":
            raise ValueError("tokenizer ngrams reads every language alike; leave out `language`")
        return self

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


# What `model` is, for the kinds of teachers that load one.
MODEL_KINDS = {
    "cross_encoder": "a sequence-classification model",
    "causal": "a causal language model that judges pairs",
    "seq2seq": "a T5 that judges pairs",
    "query_likelihood": "a causal language model",
}
TEXT_KINDS = (*MODEL_KINDS, "http")  # kinds that read the texts of pairs
_LANGUAGE_MODELS = ("causal", "seq2seq", "query_likelihood")
_ON_VLLM = ("causal", "query_likelihood")
_SERVED = ("http",)
_GIVEN = ("given",)

# Kinds of teachers that have a field; a field that is not named here is one of all kinds.
FIELDS_OF_KINDS = {
    "model": (*TEXT_KINDS, "adapted"),
    "revision": (*MODEL_KINDS, "adapted"),
    "encoder": ("bi_encoder",),
    "adapt": ("adapted",),
    "template": ("cross_encoder", *_LANGUAGE_MODELS),
    "chat": ("cross_encoder", *_LANGUAGE_MODELS),
    "instruction": ("cross_encoder", *_LANGUAGE_MODELS),
    "true_token": ("causal", "seq2seq"),
    "false_token": ("causal", "seq2seq"),
    "engine": _ON_VLLM,
    "engine_args": (*_ON_VLLM, *_SERVED),
    "tensor_parallel": _ON_VLLM,
    "base_url": _SERVED,
    "api": _SERVED,
    "api_key_env": _SERVED,
    "concurrency": _SERVED,
    "requests_per_minute": _SERVED,
    "timeout_s": _SERVED,
    "patience_s": _SERVED,
    "path": _GIVEN,
    "missing": _GIVEN,
    "language": ("bm25",),
    "tokenizer": ("bm25",),
}


class AdaptingSettings(Settings):
    """How a cross-encoder is fine-tuned on the corpus of the run, before it scores as a teacher."""

    queries: int = Field(
        20_000, ge=1, description="written queries to learn from and to judge by, spread evenly over the run"
    )
    list_length: int = Field(
        8, ge=2, description="passages per query: its source, the teachers' best others, and as many at random"
    )
    queries_per_step: int = Field(32, ge=1, description="queries of one step, over all ranks")
    epochs: int = Field(1, ge=1)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps until the full learning rate")
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    temperature: float = Field(1.0, gt=0, description="of the softmax over a list of its logits")
    teacher_temperature: float = Field(
        0.1, gt=0, description="of the softmax over the other teachers' scores, which lie between 0 and 1"
    )
    source_margin: float = Field(
        0.1, ge=0, description="the source's target lies so far above the best score that the others give in its list"
    )
    held_out_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of sources that it is judged on; at least the dev split of the lists"
    )
    held_out_queries: int = Field(500, ge=1, description="queries of held-out sources that it is judged on, at most")
    micro_batch_tokens: int = Field(
        8_192, ge=64, description="tokens in one forward pass, padding included; a list is never divided"
    )
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints")
    ranks: int | None = Field(
        None, ge=1, description="data-parallel ranks; empty: one for each GPU, or one without GPUs"
    )
    cpus_per_rank: float | None = Field(
        None, ge=0, description="CPU cores per rank; empty: 1 beside a GPU, else its share of a node"
    )
    gpus_per_rank: float = Field(0.0, ge=0)
    seed: int = 0

    @property
    def pool(self) -> PoolSettings:
        """The ranks in the form of the pools of other stages."""
        return PoolSettings(workers=self.ranks, cpus=self.cpus_per_rank, gpus=self.gpus_per_rank)

    def identity(self) -> dict[str, Any]:
        """The fields that determine the weights and the judgement."""
        how = {"micro_batch_tokens", "checkpoint_every", "ranks", "cpus_per_rank", "gpus_per_rank"}
        return self.model_dump(mode="json", exclude=how)


class TeacherSettings(Bm25Settings):
    """One teacher of the ensemble. Its weight multiplies its score, or its reciprocal rank.

    A bm25 teacher without language and tokenizer reads texts as the first bm25 retriever does, if there is one.
    """

    kind: Literal[
        "cross_encoder", "causal", "seq2seq", "query_likelihood", "http", "given", "bm25", "bi_encoder", "adapted"
    ]
    model: str | None = Field(
        None,
        description="of a language model or a classifier: id or path; of a server: the name that it knows; of an "
        "adapted one: a reranker or an encoder to begin with, empty: the student's base",
    )
    revision: str | None = Field(None, description="commit, branch or tag of a hub model; empty: its main branch")
    encoder: EncoderSettings | None = Field(None, description="of a bi-encoder; empty: the student's base")
    adapt: AdaptingSettings | None = Field(None, description="of an adapted teacher: how it is trained in the run")
    weight: float = Field(1.0, gt=0)
    template: str | None = Field(
        None, description="how a language model reads a pair: a name, a YAML file, or text; empty: by the model's name"
    )
    chat: bool = Field(False, description="a template that is text is a user's turn in the model's chat template")
    instruction: str | None = Field(None, description="what is searched for, in words, for templates that say it")
    true_token: str | None = Field(None, description="token that means relevant; empty: the template's")
    false_token: str | None = Field(None, description="token that means irrelevant; empty: the template's")
    max_tokens: int = Field(512, ge=16, description="query, passage and template together; the passage is cut")
    batch_size: int = Field(
        64,
        ge=1,
        description="full pairs in a forward pass, and more of shorter ones; halved when memory runs out. Of a server: "
        "most passages in a request; halved when it takes fewer",
    )
    engine: Literal["auto", "vllm", "transformers"] = Field(
        "auto", description="of causal models; auto: vLLM where it is installed and the worker has a GPU"
    )
    engine_args: dict[str, Any] = Field(
        default_factory=dict, description="go to vLLM as they are; of a server: further fields of every request"
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that one model is spread over, with vLLM")
    base_url: str | None = Field(
        None, description="address of a server that scores, to which /score or /rerank is added"
    )
    api: Literal["score", "rerank", "tei"] = Field(
        "score",
        description="score: vLLM's /score; rerank: /rerank of vLLM and of many others; tei: /rerank of "
        "text-embeddings-inference",
    )
    api_key_env: str | None = Field(
        None, description="environment variable of the workers that holds the server's key; empty: it wants none"
    )
    concurrency: int = Field(16, ge=1, description="requests to a server in flight per worker")
    requests_per_minute: int | None = Field(None, ge=1, description="to a server, by all workers together")
    timeout_s: float = Field(300.0, gt=0, description="longest wait for one answer of a server")
    patience_s: float = Field(600.0, ge=0, description="longest time that a server may be down or busy")
    path: str | None = Field(None, description="of given scores: a .jsonl, .csv, .tsv or .parquet file")
    missing: Literal["reject", "lowest"] = Field(
        "reject",
        description="a candidate without a given score: its query is a reject, or it has the lowest score of its query",
    )
    probe: bool = Field(
        True, description="before queries are written, try a model on pairs of known answer, and refuse one that fails"
    )
    dtype: Dtype = "auto"
    trust_remote_code: bool = False
    pool: PoolSettings = PoolSettings()
    rows_per_shard: int = Field(500, ge=1, description="queries per shard")

    @property
    def adapting(self) -> AdaptingSettings:
        """How an adapted teacher is trained."""
        return self.adapt or AdaptingSettings()

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> TeacherSettings:
        if self.kind in MODEL_KINDS and not self.model:
            raise ValueError(f"a {self.kind} teacher needs `model`, {MODEL_KINDS[self.kind]}, id or path")
        if self.kind in _SERVED:
            self._check_server()
        if self.kind in _GIVEN and not self.path:
            raise ValueError("a given teacher needs `path`, the file that holds its scores")
        if self.tensor_parallel > 1 and self.pool.gpus != self.tensor_parallel:
            raise ValueError(f"tensor_parallel is {self.tensor_parallel}; set pool.gpus to the same number")
        fields = type(self).model_fields

        def unset(name: str) -> Any:
            return fields[name].get_default(call_default_factory=True)

        for name in sorted(self.model_fields_set - {"kind"}):
            kinds = FIELDS_OF_KINDS.get(name)
            if kinds and self.kind not in kinds and getattr(self, name) != unset(name):
                raise ValueError(f"`{name}` is a field of kind {' and '.join(kinds)}, and this teacher is {self.kind}")
        return self

    def _check_server(self) -> None:
        if not (self.base_url or "").startswith(("http://", "https://")):
            raise ValueError("an http teacher needs `base_url`, the address of its server, such as http://host:8000")
        if self.api != "tei" and not self.model:
            raise ValueError(f"an http teacher with `api: {self.api}` needs `model`, the name that its server knows")
        if self.pool.gpus:
            raise ValueError("an http teacher needs no `pool.gpus`: its workers only send requests")
        # the variable is not shown: it may be the key itself, written into the wrong place
        if self.api_key_env and not is_secret_variable(self.api_key_env):
            raise ValueError(
                "`api_key_env` must be the name of an environment variable that ends in _KEY or _TOKEN, such as "
                "RERANKER_API_KEY: the values of such variables are hidden in messages and logs"
            )


def as_cross_encoder(teacher: TeacherSettings, model: str) -> TeacherSettings:
    """The teacher that an adapted one becomes: a cross-encoder.

    Args:
        teacher: of kind adapted.
        model: folder of the finished model, or of what it is made from.
    """
    made = {"kind": "cross_encoder", "model": model, "revision": None, "adapt": None}
    return teacher.model_copy(update=made)


class EnsembleSettings(Settings):
    """How the scores of several teachers become one."""

    scale: Literal["none", "zscore", "minmax"] = Field(
        "none", description="of each teacher's scores, over the whole run, before they are weighted; none: raw scores"
    )
    combine: Literal["sum", "rrf"] = Field(
        "sum", description="sum: weight × score; rrf: weight / (60 + rank of the passage for its query)"
    )
    weights: Literal["given", "learnt"] = Field(
        "given",
        description="given: each teacher's weight; learnt: those that rank the sources of unquoted queries highest, "
        "if they are no worse than the given ones on held-out sources",
    )

    @model_validator(mode="after")
    def _fields_agree(self) -> EnsembleSettings:
        if self.combine == "rrf" and self.scale != "none":
            raise ValueError("combine: rrf reads ranks alone, which no scale changes; leave `scale` out")
        if self.combine == "sum" and self.weights == "learnt" and self.scale == "none":
            raise ValueError(
                "weights can only be learnt for scores of one range; set scale: zscore, scale: minmax or combine: rrf"
            )
        return self


class ListSettings(Settings):
    """Filters, scaling, length and split of training lists."""

    length: int = Field(20, ge=2, description="passages per list")
    choice: Literal["top", "contested", "spread", "stratified"] = Field(
        "top",
        description="top: the teachers' best; contested: half of them, and what the student ranks highest; spread: "
        "evenly over the teachers' ranks; stratified: evenly over their scores",
    )
    duplicate_similarity: float | None = Field(
        0.9,
        gt=0,
        le=1,
        description="a candidate that shares this much with the source (Jaccard index of words in threes) is left out "
        "of the list, as is one of the same words; empty: they stay",
    )
    require_source_first: bool = Field(True, description="keep a synthetic query if the teacher ranks its source first")
    leave_out_source: bool | None = Field(
        None, description="leave the source out of its own list; empty: only for extractive queries, which quote it"
    )
    low_percentile: float = Field(1.0, ge=0, le=100, description="this percentile of all scores becomes 0")
    high_percentile: float = Field(99.0, ge=0, le=100, description="this percentile of all scores becomes 1")
    best_percentile: float = Field(
        25.0, ge=0, le=100, description="a query whose best score is under this percentile of best scores is dropped"
    )
    best_percentile_of: Literal["best", "all"] = Field(
        "best",
        description="best: of each query's best score; all: of every score of the queries that find their source",
    )
    percentiles_per_type: bool = Field(False, description="take percentiles in each query type, not in the whole run")
    dev_fraction: float = Field(0.1, ge=0, lt=1, description="share of sources whose queries become the dev split")
    rows_per_shard: int = Field(5_000, ge=1)
    seed: int = 0

    @model_validator(mode="after")
    def _percentiles_ascend(self) -> ListSettings:
        if self.low_percentile >= self.high_percentile:
            raise ValueError("low_percentile must be below high_percentile")
        return self

    def identity(self) -> dict[str, Any]:
        """The fields that determine the lists, without values that mean what was done before their field existed."""
        fields = self.model_dump(mode="json", exclude={"rows_per_shard", "leave_out_source"})
        before = {
            "choice": "top",
            "duplicate_similarity": None,
            "best_percentile_of": "best",
            "percentiles_per_type": False,
        }
        return {name: value for name, value in fields.items() if name not in before or value != before[name]}


class LoraSettings(Settings):
    """LoRA adapters, which are trained while the weights of the student stay fixed."""

    rank: int = Field(16, ge=1, description="inner dimension of an adapter")
    alpha: int = Field(32, ge=1, description="adapters are scaled by alpha / rank")
    target_modules: list[str] | None = Field(
        None, min_length=1, description="linear layers that get an adapter, such as q_proj; empty: all linear layers"
    )
    dropout: float = Field(0.0, ge=0, le=0, description="always 0: a passage has one embedding in a step")


class StudentSettings(EncoderSettings):
    """The student: the encoder that is trained."""

    lora: LoraSettings | None = Field(None, description="train adapters of this rank; empty: the whole model")
    pooling: Literal["auto", "mean", "cls", "last"] = Field("auto", description="auto: as the files of the model say")
    normalize: bool = True


# Fields that change how a training is computed and not what it computes.
_NOT_IN_IDENTITY = {
    "ranks",
    "cpus_per_rank",
    "gpus_per_rank",
    "zero_stage",
    "micro_batch_tokens",
    "activation_mib",
    "packed",
    "without",
    "keep_checkpoints",
    "checkpoint_every",
    "trackers",
}


class TrainingSettings(Settings):
    """Training of the student; the defaults are those of CADET."""

    ranks: int | None = Field(
        None, ge=1, description="data-parallel ranks; empty: one for each GPU, or one without GPUs"
    )
    cpus_per_rank: float | None = Field(
        None, ge=0, description="CPU cores per rank; empty: 1 beside a GPU, else its share of a node"
    )
    gpus_per_rank: float = Field(0.0, ge=0)
    queries_per_step: int = Field(4096, ge=1, description="queries of one global batch")
    list_length: int = Field(20, ge=2, description="passages per query in training, at most lists.length")
    topic_queries: int = Field(
        1, ge=1, description="queries that share passages and are put into the same step; 1: batches are shuffled"
    )
    query_log_weight: float = Field(
        1.0, gt=0, le=100, description="times that an epoch holds a logged query, where it holds a written one once"
    )
    epochs: int = Field(30, ge=1)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float = Field(2e-4, gt=0)
    final_learning_rate: float = Field(0.1, ge=0, le=1, description="learning rate of the last step, as a fraction")
    warmup_steps: int = Field(20, ge=0, description="steps until the full learning rate")
    warmup_epochs: float | None = Field(
        None, ge=0, description="epochs until the full learning rate, such as 0.5; takes the place of warmup_steps"
    )
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    student_temperature: float = Field(0.05, gt=0)
    teacher_temperature: float = Field(0.3, gt=0)
    loss: Literal["kl", "margin_mse", "ranknet", "lambdaloss", "infonce"] = Field(
        "kl",
        description="loss over each list, added to InfoNCE over the batch; infonce: InfoNCE alone, with any weights",
    )
    list_weight: float = Field(
        1.0, ge=0, validation_alias=AliasChoices("list_weight", "kl_weight"), description="of the loss over each list"
    )
    contrastive_weight: float = Field(0.1, ge=0, description="of InfoNCE over the batch")
    contrastive_temperature: float = Field(0.01, gt=0)
    contrastive_margin: float = Field(
        0.6, ge=0, description="a listed passage that scores above this × the best of its list is not a negative"
    )
    weight_by_count: bool = Field(False, description="count a passage as often as the global batch lists it")
    micro_batch_tokens: int = Field(16_384, ge=64, description="tokens in one forward pass, padding included")
    activation_mib: int | None = Field(
        None,
        ge=0,
        description="MiB of activations that a rank keeps; the rest is recomputed. Empty: 60 % of the free memory of a "
        "GPU; on CPUs a third of the available memory of the machine, for all of its ranks",
    )
    packed: bool | None = Field(
        None, description="lay sequences end to end, without padding; empty: on GPUs with flash attention"
    )
    without: list[Literal["attention", "layers", "reuse", "arena"]] = Field(
        [], description="parts of docs/compute.md that are switched off, to find a bug or to measure what they gain"
    )
    zero_stage: Literal[0, 1, 2, 3] = 0
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the encoder; scores and losses are always float32. float16 would need loss scaling"
    )
    evaluate_every: int | None = Field(None, ge=1, description="steps between dev evaluations; empty: every epoch")
    patience: int = Field(2, ge=1, description="evaluations without improvement after which training stops")
    dev_queries: int | None = Field(
        None, ge=1, description="dev queries in an evaluation, spread over the split; empty: all"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; empty: as many as between evaluations"
    )
    keep_checkpoints: int = Field(2, ge=1)
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(["tensorboard"])
    matryoshka: tuple[int, ...] = Field(
        (), description="dimensions at which cut embeddings are trained, beside whole ones, such as [64, 128]"
    )
    seed: int = 0

    @model_validator(mode="after")
    def _has_a_loss(self) -> TrainingSettings:
        if self.loss != "infonce" and self.list_weight == 0 and self.contrastive_weight == 0:
            raise ValueError("list_weight and contrastive_weight are both 0, so there is no loss to train with")
        if any(dimension < 1 for dimension in self.matryoshka):
            raise ValueError(f"matryoshka dimensions must be at least 1, and one of {list(self.matryoshka)} is not")
        return self

    @property
    def pool(self) -> PoolSettings:
        """The ranks in the form of the pools of other stages."""
        return PoolSettings(workers=self.ranks, cpus=self.cpus_per_rank, gpus=self.gpus_per_rank)

    def identity(self) -> dict[str, Any]:
        """The fields that determine the weights. The others may change when a training continues."""
        fields = self.model_dump(mode="json", exclude=_NOT_IN_IDENTITY)
        if self.query_log_weight == 1:  # changes nothing, and trainings from before the field continue
            del fields["query_log_weight"]
        if self.warmup_epochs is None:
            del fields["warmup_epochs"]
        return fields


class EvaluationSettings(Settings):
    """Judged collection and settings with which base and student are evaluated."""

    dataset: str | None = Field(None, description="BEIR folder, or pydocs://PACKAGES; empty: the student is not judged")
    split: str = "test"
    max_queries: int | None = Field(None, ge=1, description="judge on a sample of this many queries")
    depth: int = Field(100, ge=100, description="passages per query in the run; recall@100 needs a hundred")
    dimensions: int | None = Field(
        None, ge=1, description="cut embeddings at this many dimensions; empty: whole embeddings"
    )
    pool: PoolSettings | None = Field(
        None, description="workers that encode the judged collection; empty: the driver encodes it"
    )
    seed: int = 0
