"""Prompts: what a language model is asked for each query type, with some examples and the passage.

Two styles: a chat, and a text to be completed, which ends with the label. Two layouts: the type with its examples comes
first, or the passage. Engines compute a beginning that prompts share once, so the layout decides what they save. Which
examples a prompt shows depends on the seed, its type and its passage alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import groupby
from math import comb
from typing import Any, Literal

import jinja2

from generation.cleaning.asked import Asked
from generation.engines.base import Request
from generation.examples import Pool, chosen_examples, hashed
from generation.language.names import language_name
from generation.query_types import QueryType, load_types
from generation.settings import GenerationSettings

Style = Literal["chat", "completion"]
STYLES: tuple[Style, ...] = ("chat", "completion")
Layout = Literal["type_first", "passage_first", "json"]  # of json the prompts are in `generation/joint.py`

TEMPLATES = ("prompt.jinja", "joint.jinja")

_CUT_BACK = 40  # characters given up at most so that a cut passage ends with a whole word


@dataclass(frozen=True)
class Prompt:
    """All that a language model was shown for a request, and so all that its answer may be an echo of.

    Attributes:
        style: a chat, or a text to be completed.
        passages: title and text, cut as the recipe says; of both passages, where the query type has two hops.
        query_type: its name.
        label: marks the query; a completion ends with it.
        instruction: what to write.
        examples: shown before the passage.
        language: that the query should be in, as the recipe writes it; None: not said.
        about: what the recipe says of the passages.
        system: the system prompt.
        text: the message of the user, or the whole text to be completed.
    """

    style: Style
    passages: tuple[str, ...]
    query_type: str
    label: str
    instruction: str
    examples: Pool
    language: str | None
    about: str | None
    system: str | None
    text: str

    @property
    def passage(self) -> str:
        """What the clean-up compares a query with: without the mark between two passages, which is not theirs."""
        return "\n".join(self.passages)

    @property
    def shown(self) -> str:
        """What stands in the text for the passage, or for both."""
        return marked(self.passages)

    @property
    def messages(self) -> list[dict[str, str]]:
        """The chat. A system message only where the recipe has one, since not every model's template knows it."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, {"role": "user", "content": self.text}]

    def asked(self, finish_reason: str | None = None) -> Asked:
        """What the clean-up of an answer needs to know; `finish_reason` says why the engine stopped."""
        said = [self.system, self.instruction, self.about]
        if self.style == "chat":
            said.append(f"Answer with the {self.label.lower()} alone, on one line.")
        return Asked(
            passage=self.passage,
            query_type=self.query_type,
            label=self.label,
            instruction=" ".join(part for part in said if part),
            examples=tuple(("\n".join(example.passages), example.query) for example in self.examples),
            language=self.language,
            finish_reason=finish_reason,
        )


class Prompter:
    """Renders the prompt of a request.

    Args:
        settings: number of examples, length of the passage, seed, and what all prompts say.
        types: the query types; those that the settings name by default.
    """

    def __init__(self, settings: GenerationSettings, types: Mapping[str, QueryType] | None = None) -> None:
        self.settings = settings
        self.types = load_types(settings) if types is None else types

    def prompt(self, request: Request, style: Style, layout: Layout = "type_first") -> Prompt:
        """What the model is shown for a request of one type."""
        kind, settings = self.types[request.query_type], self.settings
        examples = self.examples(request)
        passages = shown(request, settings.prompt_characters)
        text = render(
            "prompt.jinja",
            instruction=kind.instruction,
            label=kind.label,
            examples=[{"passage": marked(pair.passages), "query": pair.query} for pair in examples],
            passage=marked(passages),
            two=len(passages) > 1,
            about=settings.about,
            language=language_name(kind.language) if kind.language else None,
            system=settings.system_prompt,
            chat=style == "chat",
            passage_first=layout == "passage_first",
        )
        return Prompt(
            style, passages, kind.name, kind.label, kind.instruction, examples, kind.language,
            settings.about, settings.system_prompt, text,
        )  # fmt: skip

    def examples(self, request: Request) -> Pool:
        """Examples shown for a request, in the order of the pool, so that few different prefixes arise."""
        kind, settings = self.types[request.query_type], self.settings
        return chosen_examples(
            kind.pool, kind.examples, settings.example_sets, settings.seed, kind.name, request.source_id
        )

    def beginning(self, request: Request, layout: Layout) -> tuple[str, ...]:
        """A key that is the same for prompts with the same beginning; an engine is asked for these together."""
        if layout != "type_first":
            return (request.source_id,)
        return (request.query_type, *(example.query for example in self.examples(request)))

    def fresh_characters(self, requests: list[Request], style: Style, layout: Layout) -> int:
        """Characters of these prompts that an engine computes in a long run, where beginnings are computed once.

        Args:
            requests: those of a passage are neighbours.
            style: of the prompts.
            layout: type_first or passage_first.
        """
        fresh = 0
        for _, group in groupby(requests, key=lambda request: request.source_id):
            prompts = [self.prompt(request, style, layout) for request in group]
            if layout == "passage_first":
                fresh += len(prompts[0].text)
                for number, prompt in enumerate(prompts[1:], 1):
                    passage = max(_shared(prompt.shown, other.shown) for other in prompts[:number])
                    fresh += len(prompt.text) - prompt.text.find(prompt.shown) - passage
            else:
                drawn = self.settings.example_sets is None  # then prompts share the instruction alone
                for prompt in prompts:
                    begin = prompt.text.find("Passage: ") if drawn else prompt.text.rfind(f"Passage: {prompt.shown}")
                    fresh += len(prompt.text) - begin
        return fresh

    def prefixes(self, query_type: str) -> int:
        """How many different beginnings the prompts of a type have, at most."""
        kind, sets = self.types[query_type], self.settings.example_sets
        every = comb(len(kind.pool), kind.examples)
        return every if sets is None else min(sets, every)


def shown(request: Request, characters: int) -> tuple[str, ...]:
    """Title and text of the passage as the prompt shows them, and of the second one, where there is one.

    The texts are cut at `characters` together, each at the end of a word where one is near.
    """
    if request.second is None:
        return (_cut(request.title, request.text, characters),)
    half = characters // 2
    return _cut(request.title, request.text, half), _cut(request.second.title, request.second.text, half)


def marked(passages: Sequence[str]) -> str:
    """What stands behind `Passage:`; a second passage has its own mark."""
    return "\nSecond passage: ".join(passages)


def _cut(title: str, text: str, characters: int) -> str:
    text = text.strip()
    if len(text) > characters:
        cut = text[:characters]
        head, space, _ = cut.rpartition(" ")
        text = head if space and len(cut) - len(head) <= _CUT_BACK else cut
    return f"{title.strip()}\n{text.strip()}".strip()


def _shared(first: str, second: str) -> int:
    """Characters with which both texts begin."""
    differing = (at for at, (one, other) in enumerate(zip(first, second, strict=False)) if one != other)
    return next(differing, min(len(first), len(second)))


def unit_seed(seed: int, unit: str) -> int:
    """A seed of 31 bits for one unit, the same on every machine."""
    return hashed(seed, unit)


def render(name: str, **values: Any) -> str:
    """The text of a template in `generation/prompts/`."""
    return _template(name).render(**values).strip()


@cache
def template_digest() -> str:
    """Changes whenever the text around instruction, examples and passage does."""
    return hashlib.sha256("".join(_source(name) for name in TEMPLATES).encode()).hexdigest()[:16]


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
    )
    return environment.from_string(_source(name))


def _source(name: str) -> str:
    return (resources.files("generation") / "prompts" / name).read_text(encoding="utf-8")
