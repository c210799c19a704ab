"""From the logits of a model to a grade: no answer is written or parsed.

At the place of its answer a model has a logit for every token. Those of the grades' tokens alone make a distribution
over the grades, and its expectation is the grade, from 0 (surely the worst) to 1 (surely the best). With two grades
that is the logistic function of their log-odds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cluster.errors import InputError


def expected_grades(logits: np.ndarray) -> np.ndarray:
    """The expected grades.

    Args:
        logits: (..., G) of the grades' tokens, from the worst grade to the best. Log-probabilities do as well: they
            differ from logits by what is the same for all tokens.

    Returns:
        (...) float64 from 0 to 1; NaN where a logit is no number.
    """
    wide = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        odds = np.exp(wide - wide.max(axis=-1, keepdims=True))
        return odds @ np.linspace(0.0, 1.0, wide.shape[-1]) / odds.sum(axis=-1)


def grade_tokens(encode: Callable[[str], list[int]], prompt: str, grades: Sequence[str], model: str) -> list[int]:
    """The token of every grade, as it would follow a prompt.

    Args:
        encode: the tokenizer.
        prompt: as the model reads it.
        grades: texts that follow it.
        model: named in messages.

    Returns:
        One id for each grade.

    Raises:
        InputError: a grade is not one token there, or two have the same.
    """
    before = encode(prompt)
    tokens: dict[str, int] = {}
    for grade in grades:
        after = encode(prompt + grade)
        if after[:-1] != before:
            raise InputError(
                f"generation.judge.rubric: the tokenizer of '{model}' has no single token for the grade "
                f"'{grade.strip()}' after the prompt. Name grades in the rubric that are one token each, such as the "
                "digits 1 to 5, or Yes and No."
            )
        tokens[grade] = after[-1]
    if len(set(tokens.values())) < len(tokens):
        raise InputError(
            f"generation.judge.rubric: the tokenizer of '{model}' has one token for several of the grades "
            f"{', '.join(one.strip() for one in grades)}. Name grades that it tells apart, such as the digits 1 to 5."
        )
    return list(tokens.values())
