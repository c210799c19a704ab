"""What an engine of the judge is: it is given pairs, and gives logits. It writes no text, and none is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cluster.machines.vllm import LIKELIHOOD_ARGS
from generation.judging.likelihood import LikelihoodPrompts
from generation.judging.prompts import JudgePrompts, Pair
from generation.judging.rubric import Rubric
from generation.judging.settings import JudgeSettings
from generation.settings import GenerationSettings


@dataclass(frozen=True)
class Judged:
    """What a model says of a query.

    Attributes:
        logits: (C, G) float64, of each criterion's grades, up to what is the same for all grades; None: the prompt does
            not fit the model's context.
        prompt_tokens: read.
        cached_tokens: of these, from the prefix cache.
    """

    logits: np.ndarray | None
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Judge(Protocol):
    """An engine of the judge."""

    async def judge(self, pairs: Sequence[Pair]) -> list[Judged]:
        """One for each pair, in their order; pairs of one passage are neighbours."""
        ...

    def close(self) -> None:
        """Ends the engine."""
        ...


def prompts_of(
    judge: JudgeSettings, rubric: Rubric, tokenizer: Any, longest: int | None
) -> JudgePrompts | LikelihoodPrompts:
    """What the model is shown, as `JudgePrompts` or `LikelihoodPrompts` say."""
    if judge.by == "likelihood":
        return LikelihoodPrompts(judge.prompt_characters, tokenizer, longest)
    return JudgePrompts(judge, rubric, tokenizer, longest)


def as_generation(judge: JudgeSettings) -> GenerationSettings:
    """The settings of the vLLM engine that the judge's model runs in."""
    same = ("model", "revision", "max_model_len", "tensor_parallel", "trust_remote_code", "concurrency", "pool")
    return GenerationSettings(
        engine="vllm",
        engine_args=({} if judge.by == "rubric" else LIKELIHOOD_ARGS) | judge.engine_args,
        **{name: getattr(judge, name) for name in same},
    )
