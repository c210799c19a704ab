"""The scorer of a teacher that reads texts: which of the classes computes it, on which engine."""

from __future__ import annotations

import importlib.util

from cluster.errors import InputError
from cluster.settings import PoolSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers.pairs import PairScorer
from distill.teachers.template import Template, template_of


def load_scorer(settings: TeacherSettings) -> PairScorer:
    """Loads the model of a teacher whose kind is one of `distill.settings.TEXT_KINDS`; of a server, the client.

    Raises:
        InputError: it cannot be loaded, or the recipe does not say how it reads a pair.
        RunError: vLLM does not start.
    """
    if settings.kind == "http":
        from distill.teachers.http_scorer import HttpScorer

        return HttpScorer(settings.model_copy(update={"pool": place(settings)}))
    template = template_of(settings)
    if settings.kind == "cross_encoder":
        if template is None:
            from distill.teachers.cross_encoder import CrossEncoderScorer

            return CrossEncoderScorer(settings)
        from distill.teachers.classifier import ClassifierScorer

        return ClassifierScorer(settings, template)
    assert template is not None, "every language model has a template"
    if takes_vllm(settings):
        from distill.teachers.vllm_scorer import VllmScorer

        return VllmScorer(settings, template)
    from distill.teachers.language_model import LanguageModelScorer

    return LanguageModelScorer(settings, template)


def place(settings: TeacherSettings) -> PoolSettings:
    """The pool of a teacher.

    To a server with a limit one worker sends, unless the recipe says how many do, since each keeps to its part of it.
    """
    if settings.requests_per_minute and settings.pool.workers is None:
        return settings.pool.model_copy(update={"workers": 1})
    return settings.pool


def takes_vllm(settings: TeacherSettings) -> bool:
    """Whether a causal model runs on vLLM: as the recipe says, else where there is vLLM and the worker has a GPU.

    Raises:
        InputError: the model is to be spread over GPUs without vLLM.
    """
    if settings.kind not in ("causal", "query_likelihood"):
        return False
    if settings.engine == "auto":
        chosen = settings.pool.gpus > 0 and importlib.util.find_spec("vllm") is not None
    else:
        chosen = settings.engine == "vllm"
    if settings.tensor_parallel > 1 and not chosen:
        raise InputError(
            f"teacher model '{settings.model}': tensor_parallel is {settings.tensor_parallel}, which vLLM computes. "
            "Set pool.gpus, and install vLLM."
        )
    return chosen


def check_template(settings: TeacherSettings) -> Template | None:
    """The template of a teacher, looked for before anything is loaded; raises `InputError` as `template_of`."""
    return template_of(settings) if settings.model and settings.kind != "http" else None
