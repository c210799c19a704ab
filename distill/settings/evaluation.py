"""Recipe section `evaluation`: the judged collection."""

from __future__ import annotations

from pydantic import Field

from cluster.settings import PoolSettings, Settings


class EvaluationSettings(Settings):
    """Judged collection and settings with which base and student are evaluated."""

    dataset: str | None = Field(None, description="BEIR folder, or pydocs://PACKAGES; empty: the student is not judged")
    split: str = "test"
    cut: bool = Field(
        False,
        description="cut judged passages as documents of the corpus are cut, and score each of them by its best chunk",
    )
    max_queries: int | None = Field(None, ge=1, description="judge on a sample of this many queries")
    depth: int = Field(100, ge=100, description="passages per query in the run; recall@100 needs a hundred")
    dimensions: int | None = Field(
        None, ge=1, description="cut embeddings at this many dimensions; empty: whole embeddings"
    )
    pool: PoolSettings | None = Field(
        None, description="workers that encode the judged collection; empty: the driver encodes it"
    )
    seed: int = 0
