"""How a teacher is made on the spot, from a cross-encoder or an encoder."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from cluster.settings import PoolSettings, Settings


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
