"""Opens the judge: in vLLM, or in transformers where there is no vLLM. Both give the same numbers."""

from __future__ import annotations

from cluster.errors import InputError, RunError
from generation.engines.models import find_model
from generation.judging.judged import Judge
from generation.judging.rubric import Rubric, load_rubric
from generation.judging.settings import JudgeSettings
from generation.judging.transformers_judge import TransformersJudge
from generation.judging.vllm_judge import VllmJudge
from generation.mixture import Section, in_section

JUDGE = Section(field="generation.judge")  # names it in messages


def open_judge(judge: JudgeSettings, rubric: Rubric) -> Judge:
    """Loads the model.

    Raises:
        InputError: it cannot be found or loaded, or a grade of the rubric is not one of its tokens.
        RunError: the engine does not start.
    """
    try:
        return VllmJudge(judge, rubric) if judge.engine == "vllm" else TransformersJudge(judge, rubric)
    except (InputError, RunError) as error:
        if type(error) not in (InputError, RunError):
            raise
        raise type(error)(in_judge(str(error))) from error


def check_judge(judge: JudgeSettings) -> None:
    """Looks at rubric and model before anything is started.

    Raises:
        InputError: the rubric has mistakes; or the model does not exist, or its weights are not safe to read.
    """
    load_rubric(judge)
    try:
        find_model(judge.model, judge.revision)
    except InputError as error:
        raise InputError(in_judge(str(error))) from None


def in_judge(message: str) -> str:
    """A message about `generation.model`, which names `generation.judge.model`."""
    return message if "generation.judge." in message else in_section(message, JUDGE)
