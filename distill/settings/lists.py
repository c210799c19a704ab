"""Recipe section `lists`: filters, scaling, choice and split of training lists."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cluster.settings import Settings


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
