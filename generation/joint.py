"""The layout `json`: one prompt asks for all query types of a passage, and one JSON object answers it.

Engines that can hold a model to a schema do so (structured output). An object that was cut counts for the types that it
holds whole.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import from_json

from generation.cleaning.clean import clean
from generation.engines.base import Answer, Request
from generation.language.names import language_name
from generation.prompting import Prompt, Prompter, Style, marked, render, shown

SYNTAX_TOKENS = 12  # of a key, its quotes and the comma


@dataclass(frozen=True)
class JointPrompt:
    """A prompt for several types of one passage.

    Attributes:
        style: a chat, or a text to be completed.
        text: the message of the user, or the whole text to be completed.
        parts: by query type, the prompt that would ask for it alone; the clean-up compares an answer with it.
        max_tokens: of an answer.
        system: the system prompt.
    """

    style: Style
    text: str
    parts: dict[str, Prompt]
    max_tokens: int
    system: str | None

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.text}]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """JSON schema of the answer: a text for each type."""
        return {
            "type": "object",
            "properties": {name: {"type": "string"} for name in self.parts},
            "required": list(self.parts),
            "additionalProperties": False,
        }


def joint_prompt(prompter: Prompter, requests: Iterable[Request], style: Style) -> JointPrompt:
    """The prompt for requests of one passage; several samples of a type count once."""
    first_of = {request.query_type: request for request in reversed(list(requests))}
    ordered = [request for name in prompter.types if (request := first_of.get(name))]
    parts = {request.query_type: prompter.prompt(request, style) for request in ordered}
    settings, kinds = prompter.settings, [prompter.types[name] for name in parts]
    text = render(
        "joint.jinja",
        kinds=[
            {
                "name": kind.name,
                "instruction": kind.instruction,
                "language": language_name(kind.language) if kind.language else None,
                "examples": [example.query for example in parts[kind.name].examples],
            }
            for kind in kinds
        ],
        passage=marked(shown(ordered[0], settings.prompt_characters)),
        two=ordered[0].second is not None,
        about=settings.about,
        system=settings.system_prompt,
        chat=style == "chat",
    )
    most = sum(kind.max_tokens + SYNTAX_TOKENS for kind in kinds)
    return JointPrompt(style, text, parts, most, settings.system_prompt)


def samples_of(requests: list[Request]) -> int:
    """Objects that are asked for: as many as the type with the most queries has."""
    return max(Counter(request.query_type for request in requests).values())


def joint_answers(
    requests: list[Request], prompt: JointPrompt, written: list[tuple[str, str | None]], tokens: tuple[int, int, int]
) -> list[Answer]:
    """One answer for each request: the n-th request of a type is answered by the n-th object.

    Args:
        requests: of one passage.
        prompt: what they were asked by.
        written: text and finish reason of each object.
        tokens: read and written together, in the prompt, and of these from the prefix cache; the first answer has them.
    """
    objects = [_object(text) for text, _ in written]
    answers: list[Answer] = []
    number_of = dict.fromkeys(prompt.parts, 0)
    for request in requests:
        number = number_of[request.query_type]
        number_of[request.query_type] += 1
        text, finish = written[number] if number < len(written) else ("", None)
        value = objects[number].get(request.query_type) if number < len(written) else None
        used = (0, 0, 0) if answers else tokens
        if not isinstance(value, str):
            reason = "cut_at_limit" if finish == "length" else "not_in_json"
            answers.append(Answer(request.unit, None, reason, used[0], text, used[1], used[2]))
            continue
        query = clean(value, prompt.parts[request.query_type].asked("stop"))
        dropped = value if query.text is None else ""
        answers.append(Answer(request.unit, query.text, query.reason, used[0], dropped, used[1], used[2]))
    return answers


def _object(text: str) -> dict[str, Any]:
    """What a JSON object holds whole; empty if the text is none."""
    begin = text.find("{")
    try:
        read = from_json(text[begin:].encode(), allow_partial=True) if begin >= 0 else {}
    except ValueError:
        try:  # something follows the object
            read, _ = json.JSONDecoder().raw_decode(text[begin:])
        except ValueError:
            return {}
    return read if isinstance(read, dict) else {}
