"""Recipe section `training`: how the student is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, model_validator

from cluster.settings import PoolSettings, Settings

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
    "checkpoint_minutes",
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
        1.0,
        gt=0,
        le=100,
        description="times that an epoch holds a logged or judged query, where it holds a written one once",
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
    relevant_from: float = Field(
        0.6,
        ge=0,
        le=1,
        description="a passage counts as relevant in a dev evaluation if it scores above this × the best score of its "
        "query; its score is its gain",
    )
    patience: int = Field(2, ge=1, description="evaluations without improvement after which training stops")
    dev_queries: int | None = Field(
        None, ge=1, description="dev queries in an evaluation, spread over the split; empty: all"
    )
    checkpoint_every: int | None = Field(
        None, ge=1, description="steps between checkpoints; empty: as many as between evaluations"
    )
    checkpoint_minutes: float | None = Field(
        10.0,
        gt=0,
        description="most minutes of work between checkpoints, where one takes less than 2 % of that; "
        "empty: only as checkpoint_every says",
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
        if self.relevant_from == self.contrastive_margin:  # one field was both
            del fields["relevant_from"]
        return fields
