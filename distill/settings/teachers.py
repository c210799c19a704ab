"""Recipe section `teachers`: who scores the candidates."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.disclosure import is_secret_variable
from cluster.settings import PoolSettings
from distill.settings.adapting import AdaptingSettings
from distill.settings.encoders import Dtype, EncoderSettings
from distill.settings.retrieval import Bm25Settings

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
