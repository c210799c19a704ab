"""Recipe sections about sources: which passages are chosen, how many queries are paid for, and what a neighbour is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.settings import Settings

FLOOR = 0.2
TRIAL_SOURCES = 512  # enough for an engine that works on hundreds of prompts at a time


class SourceSettings(Settings):
    """Which passages queries are written for. How many is `corpus.max_sources`, a `share`, or `generation.budget`."""

    by: Literal["random", "clusters", "ids", "query_log"] = Field(
        "random",
        description="clusters of the base embedding share evenly; query_log gives more to those that users ask about; "
        "ids takes those of a file, in its order",
    )
    share: float | None = Field(None, gt=0, le=1, description="of the passages that may be sources")
    clusters: int | None = Field(None, ge=2, description="of k-means; empty: the square root of the passages, ≤ 1,024")
    floor: float = Field(
        FLOOR, ge=0, le=1, description="query_log: share that all clusters get evenly, whatever users ask"
    )
    file: str | None = Field(None, description="ids: text with one id a line, or JSONL, CSV or TSV, also compressed")
    id_field: str | None = Field(
        None, description="ids: field of JSONL, CSV and TSV; empty: _id, id, docid or passage_id"
    )

    @model_validator(mode="after")
    def _fields_belong_to_the_way(self) -> SourceSettings:
        if self.by == "ids" and self.file is None:
            raise ValueError("by 'ids' needs `file`, a file with the ids of passages")
        ways = {
            "share": ("random", "clusters", "query_log"),
            "clusters": ("clusters", "query_log"),
            "floor": ("query_log",),
            "file": ("ids",),
            "id_field": ("ids",),
        }
        for name, allowed in ways.items():
            if self.by not in allowed and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` has no meaning with by '{self.by}', only with {' or '.join(allowed)}")
        return self

    @property
    def needs_vectors(self) -> bool:
        """Whether passages are chosen by their vectors."""
        return self.by in ("clusters", "query_log")


class BudgetSettings(Settings):
    """What may be spent on queries. The number of sources follows from it, and is at most `corpus.max_sources`."""

    queries: int | None = Field(None, ge=1, description="queries that are asked for in all")
    gpu_hours: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of one GPU; a trial of the engine says how many sources that is"
    )
    worker_hours: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="of one worker, for engines that hold no GPU"
    )
    trial_sources: int = Field(
        TRIAL_SOURCES, ge=1, description="on which the engine is measured; their queries are written again by the run"
    )

    @model_validator(mode="after")
    def _one_is_set(self) -> BudgetSettings:
        if sum(value is not None for value in (self.queries, self.gpu_hours, self.worker_hours)) != 1:
            raise ValueError("expected one of `queries`, `gpu_hours` and `worker_hours`")
        return self

    @property
    def in_hours(self) -> bool:
        """Whether the engine's speed decides how many sources there are."""
        return self.queries is None


class NeighbourSettings(Settings):
    """Which passage counts as the neighbour of another, for query types with `hops: 2`; by the base embedding."""

    min_similarity: float = Field(0.5, ge=-1, le=1, description="cosine; passages that are farther have no neighbour")
    max_similarity: float = Field(0.95, ge=-1, le=1, description="cosine; nearer passages are copies of each other")

    @model_validator(mode="after")
    def _limits_agree(self) -> NeighbourSettings:
        if self.min_similarity >= self.max_similarity:
            raise ValueError(f"min_similarity {self.min_similarity} is not less than max_similarity")
        return self
