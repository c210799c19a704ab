"""Recipe settings of encoders: the student, and those that retrieve and teach."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from cluster.settings import Settings

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class EncoderSettings(Settings):
    """A dense encoder: its model, and how texts are prepared for it."""

    model: str = Field(description="sentence-transformers or transformers model, id or path")
    revision: str | None = Field(None, description="commit, branch or tag of a hub model; empty: its main branch")
    query_prompt: str | None = Field(None, description="prefix of queries; empty: that of the model, if it has one")
    passage_prompt: str | None = Field(None, description="prefix of passages; empty: that of the model, if it has one")
    pooling: Literal["auto", "mean", "cls", "last"] = Field("auto", description="auto: as the files of the model say")
    max_query_tokens: int = Field(64, ge=8)
    max_passage_tokens: int = Field(256, ge=8)
    batch_tokens: int = Field(
        16_384, ge=256, description="tokens in a forward pass when encoding; on a CPU 4,096 at most"
    )
    dtype: Dtype = Field("auto", description="auto: bfloat16 on devices that are faster with it")
    trust_remote_code: bool = False

    def identity(self, **options: Any) -> dict[str, Any]:
        """`model_dump(**options)` without an empty revision, so that what was made before there was one stays."""
        fields = self.model_dump(**options)
        if self.revision is None:
            del fields["revision"]
        return fields


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
    normalize: bool | None = Field(
        None, description="embeddings of length 1, so that scores are cosines; empty: as the model's similarity says"
    )
