"""Recipe section `generation.judge`: which model judges the written queries, by which rubric, and which of them go."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cluster.settings import PoolSettings, Settings

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class JudgeSettings(Settings):
    """A second look at written queries. Grades are from 0 to 1."""

    model: str = Field(min_length=1, description="language model that judges: model id, folder or GGUF file")
    by: Literal["rubric", "likelihood"] = Field(
        "rubric", description="rubric: grades by instruction; likelihood: how far the passage makes the query likelier"
    )
    engine: Literal["vllm", "transformers"] = Field(
        "vllm", description="transformers is slower, and for machines without vLLM"
    )
    rubric: str | None = Field(None, description="YAML file with criteria of your own; empty: the shipped ones")
    threshold: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="queries with a lower mean grade are dropped; auto: the lowest ones, as drop_share says"
    )
    drop_share: float = Field(
        0.1, ge=0, lt=1, description="at most this share of judged queries goes by threshold auto"
    )
    weights: dict[str, Weight] = Field(
        default_factory=dict, description="of criteria in the mean grade, instead of the rubric's own"
    )
    prompt_characters: int = Field(2048, ge=64, description="passage text is cut here in the prompt")
    max_model_len: int | None = Field(4096, description="longest prompt, tokens")
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict, description="arguments of the chat template")
    tensor_parallel: int = Field(1, ge=1, description="GPUs of one vLLM engine")
    engine_args: dict[str, Any] = Field(default_factory=dict, description="further vLLM engine arguments")
    revision: str | None = Field(None, description="commit, branch or tag of a hub model; empty: its main branch")
    trust_remote_code: bool = False
    batch_size: int = Field(16, ge=1, description="prompts that transformers reads at once")
    concurrency: int = Field(256, ge=1, description="requests in flight per vLLM worker")
    pool: PoolSettings = PoolSettings()
    rows_per_shard: int = Field(2048, ge=1, description="queries per shard")

    @model_validator(mode="after")
    def _likelihood_has_no_rubric(self) -> JudgeSettings:
        if self.by == "likelihood" and (self.rubric or self.weights or self.chat_template_kwargs):
            raise ValueError(
                "by: likelihood asks nothing, so that rubric, weights and chat_template_kwargs have no meaning: leave "
                "them out, or set by: rubric"
            )
        return self
