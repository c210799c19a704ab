"""Whether a language model can write or judge queries: found before the first stage, without its weights in memory.

The longest fixed part of a prompt is set beside the context, the judge's grades are looked up in the vocabulary, and
vLLM makes its configuration. So a model that is no use is found in a minute, and not after the corpus was read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from cluster.errors import InputError
from generation.checks.files import ModelFiles, read_files
from generation.engines.base import Request, SecondPassage
from generation.engines.lora import Adapter
from generation.engines.turns import token_ids, without_special_tokens
from generation.engines.vllm_start import engine_config
from generation.judging.engines import in_judge
from generation.judging.judged import as_generation, prompts_of
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings
from generation.prompting import Prompter, Style
from generation.settings import GenerationSettings
from generation.special_tokens import of_tokenizer


def check_model(settings: GenerationSettings | JudgeSettings, asks_vllm: bool = False) -> ModelFiles:
    """Checks the model that writes queries with vLLM, or the one that judges them.

    Args:
        settings: of the section `generation` or `generation.judge`.
        asks_vllm: whether vLLM makes its configuration, too. It does so only on a machine of the kind that it is
            installed for.

    Raises:
        InputError: the model cannot be read, lacks weights, holds no prompt of a query type, or has no token for a
            grade; or vLLM refuses it.
    """
    if isinstance(settings, GenerationSettings):
        return _check_writer(settings, asks_vllm)
    try:
        return _check_judge(settings, asks_vllm)
    except InputError as error:
        raise InputError(in_judge(str(error))) from error


def _check_writer(settings: GenerationSettings, asks_vllm: bool) -> ModelFiles:
    files = read_files(str(settings.model), settings.revision, settings.max_model_len, settings.trust_remote_code)
    _refuse_long_prompts(settings, files)
    if asks_vllm:
        adapter = Path(settings.lora).expanduser() if settings.lora else None
        engine_config(settings, Adapter.read(adapter) if adapter and adapter.is_dir() else None)
    return files


def _check_judge(judge: JudgeSettings, asks_vllm: bool) -> ModelFiles:
    files = read_files(judge.model, judge.revision, judge.max_model_len, judge.trust_remote_code)
    prompts_of(judge, load_rubric(judge), files.tokenizer, files.context)
    if asks_vllm and judge.engine == "vllm":
        engine_config(as_generation(judge))
    return files


def _refuse_long_prompts(settings: GenerationSettings, files: ModelFiles) -> None:
    """Refuses a query type of which the model's context never holds a prompt, however short the passage is."""
    if files.context is None:
        return
    prompter = Prompter(settings)
    styles = files.styles if settings.prompt == "auto" else (settings.prompt,)
    for name, kind in prompter.types.items():
        second = SecondPassage("", "", "A sentence.") if kind.hops == 2 else None
        request = Request("", "", "", "A sentence.", name, 0, second)
        fixed = min(_lengths(prompter, request, styles, files), default=0)
        if fixed + kind.max_tokens > files.context:
            limit = " (generation.max_model_len)" if files.context == settings.max_model_len else ""
            raise InputError(
                f"generation.query_types: a prompt of the type {name} takes {fixed} tokens without its passage, and "
                f"its answer up to {kind.max_tokens}; '{settings.model}' holds {files.context}{limit}. Show fewer "
                "examples, raise generation.max_model_len if the model can hold more, or leave the type out."
            )


def _lengths(prompter: Prompter, request: Request, styles: Iterable[Style], files: ModelFiles) -> Iterator[int]:
    """Tokens of a prompt in each style; nothing for one that the chat template refuses."""
    from jinja2 import TemplateError

    special = of_tokenizer(files.tokenizer)
    for style in styles:
        prompt = without_special_tokens(prompter.prompt(request, style), special)
        try:
            yield len(token_ids(files.tokenizer, prompt, prompter.settings.chat_template_kwargs))
        except (TemplateError, ValueError):
            continue  # the engine says what the template refuses, and may write in another style
