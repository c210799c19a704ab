"""Rubrics: the shipped one is whole, and a mistake in a user's own is told with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import InputError
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings

OWN = """\
instruction: Look at the query.
grades: [No, 2, Yes]
criteria:
  useful:
    question: Would a nurse ask this?
    weight: 3
  short:
    question: Is it short?
"""


def rubric(folder: Path, text: str, **settings):
    path = folder / "rubric.yaml"
    path.write_text(text)
    return load_rubric(JudgeSettings(model="m", rubric=str(path), **settings))


def test_the_shipped_rubric_asks_for_three_things_on_five_grades():
    shipped = load_rubric(JudgeSettings(model="m"))
    assert list(shipped.questions) == ["answerable", "understandable", "natural"]
    assert shipped.grades == ("1", "2", "3", "4", "5")
    assert shipped.weights == dict.fromkeys(shipped.questions, 1.0)


def test_a_recipe_brings_its_own_criteria_and_weights(tmp_path):
    own = rubric(tmp_path, OWN.replace("No, 2, Yes", "'No', 2, 'Yes'"), weights={"short": 0.5})
    assert own.grades == ("No", "2", "Yes")
    assert own.questions == {"useful": "Would a nurse ask this?", "short": "Is it short?"}
    assert own.weights == {"useful": 3.0, "short": 0.5}


def test_weights_do_not_change_what_is_asked(tmp_path):
    text = OWN.replace("No, 2, Yes", "1, 2")
    first, other = rubric(tmp_path, text), rubric(tmp_path, text.replace("weight: 3", "weight: 2"))
    assert first.digest == other.digest
    assert first.digest != rubric(tmp_path, text.replace("1, 2", "2, 1")).digest
    assert first.digest != rubric(tmp_path, text.replace("a nurse", "a doctor")).digest


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "question: Is it short?",
            "qestion: Is it short?",
            "line 8: unknown key `criteria.short.qestion`; did you mean",
        ),
        ("weight: 3", "weight: -3", "line 6: `criteria.useful.weight` is -3"),
        ("[No, 2, Yes]", "[1, 1]", "line 2: `grades`: every grade stands there once"),
        ("[No, 2, Yes]", "[1]", "line 2: `grades` is "),
        ("[No, 2, Yes]", "[' 1', 2]", "line 2: `grades`: a grade is a word or a number"),
        ("[No, 2, Yes]", "[No, 2, Yes]", "line 2: `grades.0` is False"),  # YAML reads No as false
        ("  useful:", "  use/ful:", "becomes part of a reason"),
        ("instruction: Look at the query.\n", "", "`instruction` is missing"),
        ("grades:", "grades: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path, before, after, told):
    with pytest.raises(InputError, match=r"rubric\.yaml") as caught:
        rubric(tmp_path, OWN.replace(before, after))
    assert told in str(caught.value)


def test_weights_of_a_recipe_are_for_criteria_that_there_are(tmp_path):
    text = OWN.replace("No, 2, Yes", "1, 2")
    with pytest.raises(InputError, match=r"no criterion 'usefull'; there are useful, short"):
        rubric(tmp_path, text, weights={"usefull": 1})
    with pytest.raises(InputError, match="all are 0"):
        rubric(tmp_path, text, weights={"useful": 0, "short": 0})
    with pytest.raises(InputError, match="cannot be read"):
        load_rubric(JudgeSettings(model="m", rubric=str(tmp_path / "none.yaml")))
