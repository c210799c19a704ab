"""Prompts: what a language model is asked for each query type, with up to three examples and the passage at the end.

The texts are data in `generation/prompts/`. Which examples a prompt shows depends on the seed and its unit alone.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import jinja2
import yaml

from generation.cleaning import Asked
from generation.engines.base import Request
from generation.settings import GenerationSettings

_FILES = ("types.yaml", "examples.yaml", "prompt.jinja")
_CUT_BACK = 40  # characters given up at most so that a cut passage ends with a whole word


@dataclass(frozen=True)
class QueryPrompt:
    """How one query type is asked for."""

    label: str
    instruction: str
    examples: bool


class Prompter:
    """Renders the prompt of a request.

    Args:
        settings: number of examples, length of the passage, seed.
    """

    def __init__(self, settings: GenerationSettings) -> None:
        self.settings = settings
        self.types = query_prompts()
        self.pool = example_pool()
        environment = jinja2.Environment(
            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, autoescape=False
        )
        self._template = environment.from_string(_read("prompt.jinja"))

    def messages(self, request: Request) -> list[dict[str, str]]:
        """The prompt as a chat: one message of the user, since not every model's template knows other roles."""
        return [{"role": "user", "content": self._render(request, chat=True)}]

    def completion(self, request: Request) -> str:
        """The prompt for a model without a chat template: it ends with the label, and the query is to follow."""
        return self._render(request, chat=False)

    def asked(self, request: Request, finish_reason: str | None = None) -> Asked:
        """What the clean-up has to know of a request.

        Args:
            request: whose answer is to be cleaned.
            finish_reason: why the engine stopped.
        """
        kind = self.types[request.query_type]
        return Asked(
            passage=shown(request, self.settings.prompt_characters),
            query_type=request.query_type,
            label=kind.label,
            instruction=f"{kind.instruction} Answer with the {kind.label.lower()} alone, on one line.",
            examples=tuple((each["passage"], each["query"]) for each in self.examples(request)),
            finish_reason=finish_reason,
        )

    def examples(self, request: Request) -> list[dict[str, str]]:
        """Examples shown for a request, in the order of the pool, so that few different prefixes arise."""
        count = min(self.settings.examples, len(self.pool))
        if not self.types[request.query_type].examples or not count:
            return []
        chosen = random.Random(unit_seed(self.settings.seed, request.unit)).sample(range(len(self.pool)), count)
        return [
            {"passage": self.pool[number]["passage"], "query": self.pool[number][request.query_type]}
            for number in sorted(chosen)
        ]

    def _render(self, request: Request, chat: bool) -> str:
        kind = self.types[request.query_type]
        return self._template.render(
            instruction=kind.instruction,
            label=kind.label,
            examples=self.examples(request),
            passage=shown(request, self.settings.prompt_characters),
            chat=chat,
        ).strip()


def shown(request: Request, characters: int) -> str:
    """Title and text as the prompt shows them, the text cut at `characters`, at the end of a word where one is near."""
    text = request.text.strip()
    if len(text) > characters:
        cut = text[:characters]
        head, space, _ = cut.rpartition(" ")
        text = head if space and len(cut) - len(head) <= _CUT_BACK else cut
    return f"{request.title.strip()}\n{text.strip()}".strip()


def unit_seed(seed: int, unit: str) -> int:
    """A seed of 31 bits for one unit, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {unit}".encode(), digest_size=4).digest()) & 0x7FFFFFFF


@cache
def query_prompts() -> dict[str, QueryPrompt]:
    """The six query types."""
    return {name: QueryPrompt(**entry) for name, entry in yaml.safe_load(_read("types.yaml")).items()}


@cache
def example_pool() -> list[dict[str, Any]]:
    """Passages with one query for each type that is shown with examples."""
    return yaml.safe_load(_read("examples.yaml"))


@cache
def prompts_digest() -> str:
    """Changes whenever a prompt would."""
    return hashlib.sha256("\0".join(_read(name) for name in _FILES).encode()).hexdigest()[:16]


def _read(name: str) -> str:
    return (resources.files("generation") / "prompts" / name).read_text(encoding="utf-8")
