"""The rubric: what the judge asks about a query, and the grades that it may give. Data, in one YAML file.

The shipped one is `generation/prompts/rubric.yaml`; a recipe may name another.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from cluster.errors import InputError
from cluster.mistakes import explain, listed, read_yaml, shown
from cluster.settings import Settings
from generation.judging.settings import JudgeSettings, Weight

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class CriterionFile(Settings):
    """The fields of a criterion."""

    question: str = Field(min_length=1, description="what is asked about the query, and what each grade means")
    weight: Weight = Field(1.0, description="in the mean grade of a query")


class RubricFile(Settings):
    """The fields of a rubric's file."""

    instruction: str = Field(min_length=1, description="what the model is told before passage and query")
    grades: list[str] = Field(min_length=2, max_length=20, description="from the worst to the best")
    criteria: dict[str, CriterionFile] = Field(min_length=1, description="what is asked, by name")

    @field_validator("grades", mode="before")
    @classmethod
    def _numbers_are_texts(cls, grades: Any) -> Any:
        """YAML reads 1 as a number."""
        numbers = isinstance(grades, list)
        return [str(one) if type(one) is int else one for one in grades] if numbers else grades

    @field_validator("grades")
    @classmethod
    def _grades_differ(cls, grades: list[str]) -> list[str]:
        if any(one != one.strip() or not one for one in grades):
            raise ValueError("a grade is a word or a number without spaces around it")
        if len(set(grades)) < len(grades):
            raise ValueError("every grade stands there once, from the worst to the best")
        return grades

    @field_validator("criteria")
    @classmethod
    def _names_are_reasons(cls, criteria: dict[str, CriterionFile]) -> dict[str, CriterionFile]:
        for name in criteria:
            if not name or not set(name) <= NAME_CHARACTERS:
                raise ValueError(f"the name {name!r} becomes part of a reason: use letters, digits, '-' and '_'")
        return criteria

    @model_validator(mode="after")
    def _something_weighs(self) -> RubricFile:
        if not any(criterion.weight for criterion in self.criteria.values()):
            raise ValueError("the weight of every criterion is 0; then no query has a mean grade")
        return self


@dataclass(frozen=True)
class Rubric:
    """A rubric, resolved.

    Attributes:
        instruction: told before passage and query.
        grades: from the worst to the best.
        questions: by criterion.
        weights: of each criterion in the mean grade; the recipe's where it has one.
    """

    instruction: str
    grades: tuple[str, ...]
    questions: dict[str, str]
    weights: dict[str, float]

    @property
    def digest(self) -> str:
        """Changes whenever the model is asked something else; weights are no part of that."""
        asked = json.dumps([self.instruction, self.grades, list(self.questions.items())])
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


# of a judge by likelihood, which asks nothing: its two grades are the query without the passage, and with it
LIKELIHOOD = Rubric("", ("without", "with"), {"likelihood": ""}, {"likelihood": 1.0})


def load_rubric(judge: JudgeSettings) -> Rubric:
    """The rubric that a recipe names, with the recipe's weights; `LIKELIHOOD` if the judge has none.

    Raises:
        InputError: the file has mistakes, each with its line; or a weight is for no criterion, or all are 0.
    """
    if judge.by == "likelihood":
        return LIKELIHOOD
    shipped = Path(str(resources.files("generation"))) / "prompts" / "rubric.yaml"
    path = Path(judge.rubric).expanduser() if judge.rubric else shipped
    data, places = read_yaml(path, "a rubric")
    if not isinstance(data, dict):
        raise InputError(f"{path}, line 1: expected `instruction:`, `grades:` and `criteria:`, found {shown(data)}")
    try:
        file = RubricFile.model_validate({str(key): value for key, value in data.items()})
    except ValidationError as error:
        problems = explain(error, RubricFile, places, f"{path}, line 1")
        raise InputError(listed(f"the rubric {path}", problems)) from None
    if unknown := [name for name in judge.weights if name not in file.criteria]:
        raise InputError(
            f"generation.judge.weights: the rubric {path} has no criterion {', '.join(map(repr, unknown))}; there are "
            f"{', '.join(file.criteria)}."
        )
    weights = {name: judge.weights.get(name, criterion.weight) for name, criterion in file.criteria.items()}
    if not any(weights.values()):
        raise InputError("generation.judge.weights: all are 0, and then no query has a mean grade. Give one a weight.")
    questions = {name: criterion.question.strip() for name, criterion in file.criteria.items()}
    return Rubric(file.instruction.strip(), tuple(file.grades), questions, weights)
