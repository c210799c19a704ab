"""What a model reads of a prompt: the turns of its chat template, which only the template begins and ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from generation.joint import JointPrompt
from generation.prompting import Prompt
from generation.special_tokens import as_text

AnyPrompt = TypeVar("AnyPrompt", bound=Prompt | JointPrompt)


def without_special_tokens(prompt: AnyPrompt, names: Iterable[str] = ()) -> AnyPrompt:
    """A prompt as an engine may send it: no special token stands in its passage, examples or instructions.

    Args:
        prompt: as people wrote it. An answer is still compared with that.
        names: of the tokenizer that reads it, if it is known.
    """
    system = as_text(prompt.system, names) if prompt.system else prompt.system
    return replace(prompt, text=as_text(prompt.text, names), system=system)


def token_ids(tokenizer: Any, prompt: Prompt | JointPrompt, template_kwargs: Mapping[str, Any]) -> list[int]:
    """The ids of a completion, or of a chat in the model's own template, which writes the special tokens itself."""
    if prompt.style == "completion":
        return list(tokenizer.encode(prompt.text))
    arguments = {
        "enable_thinking": False,  # a template that knows no such switch ignores it
        **template_kwargs,
        "add_generation_prompt": True,
        "tokenize": True,
        "return_dict": False,
    }
    return list(tokenizer.apply_chat_template(prompt.messages, **arguments))
