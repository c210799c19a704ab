"""Recipe section `ensemble`: how the scores of several teachers become one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cluster.settings import Settings


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
