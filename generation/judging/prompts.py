"""What the judge is shown: instruction, passage, query, and the question of one criterion.

One prompt asks for one grade. They begin alike as far as possible, since engines compute a shared beginning once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from cluster.errors import InputError
from generation.engines.base import Request
from generation.engines.fitting import fitted
from generation.judging.grades import grade_tokens
from generation.judging.rubric import Rubric
from generation.judging.settings import JudgeSettings
from generation.prompting import render, shown
from generation.special_tokens import as_text, of_tokenizer

_TEMPLATE = "judge.jinja"

Passages = tuple[tuple[str, str], ...]  # title and text of each


@dataclass(frozen=True)
class Pair:
    """A query, and the passage that it was written for, or both of them.

    Attributes:
        query_id: names it in the whole run.
        query: its text.
        passages: title and text of each.
    """

    query_id: str
    query: str
    passages: Passages


def judge_text(rubric: Rubric, pair: Pair, criterion: str, characters: int, chat: bool) -> str:
    """The message of the user, or the whole text that is to be completed with a grade.

    Args:
        rubric: with the criterion's question.
        pair: what is judged.
        criterion: its name.
        characters: of the passages' texts together, at most.
        chat: whether it is a message.
    """
    return render(
        _TEMPLATE, instruction=rubric.instruction, passages=passage_texts(pair.passages, characters), query=pair.query,
        question=rubric.questions[criterion], grades=rubric.grades, chat=chat,
    )  # fmt: skip


def passage_texts(passages: Sequence[tuple[str, str]], characters: int) -> list[str]:
    """Title and text of each passage as one text; together they have at most so many characters."""
    each = characters // max(1, len(passages))
    return [shown(Request("", "", title, text, "", 0), each)[0] for title, text in passages]


def cut_to_fit(passages: Passages, characters: int, longest: int, length: Callable[[Passages], int]) -> Passages | None:
    """Passages of a prompt that is too long, all cut where a sentence of the longest one ends; None: nothing fits.

    Args:
        passages: title and text of each.
        characters: of a text that the prompt shows, at most.
        longest: tokens that the prompt may have.
        length: tokens of the prompt with such passages.
    """

    def cut(end: int) -> Passages:
        return tuple((title, text[:end]) for title, text in passages)

    title, text = max(passages, key=lambda passage: len(passage[1]))
    request = Request("", "", title, text[:characters], "", 0)
    shorter = fitted(request, len(text), longest, lambda one: length(cut(len(one.text))))
    return cut(len(shorter.text)) if shorter else None


@cache
def judge_template_digest() -> str:
    """Changes whenever the text around instruction, passage, query and question does."""
    source = (resources.files("generation") / "prompts" / _TEMPLATE).read_bytes()
    return hashlib.sha256(source).hexdigest()[:16]


class JudgePrompts:
    """Token ids of prompts, in the chat template of the model where it has one.

    Args:
        judge: settings of the judge.
        rubric: what it asks.
        tokenizer: of its model.
        longest: tokens that a prompt may have; None: no limit.

    `grade_ids` are the tokens of the grades, from the worst to the best.

    Raises:
        InputError: a grade is not one token of the model, or the chat template refuses the prompt.
    """

    def __init__(self, judge: JudgeSettings, rubric: Rubric, tokenizer: Any, longest: int | None) -> None:
        self.judge, self.rubric, self.tokenizer, self.longest = judge, rubric, tokenizer, longest
        self.is_chat = bool(getattr(tokenizer, "chat_template", None))
        self._special = of_tokenizer(tokenizer)
        sample = self._text(Pair("", "honey", (("", "Bees make honey."),)), next(iter(rubric.questions)))
        # a completion ends with "Grade:", which a space follows; some tokenizers have it in the token of the grade
        grades = rubric.grades if self.is_chat else [f" {grade}" for grade in rubric.grades]
        self._ending = ""
        try:
            self.grade_ids = grade_tokens(self._encode, sample, grades, judge.model)
        except InputError:
            if self.is_chat:
                raise
            self._ending = " "
            self.grade_ids = grade_tokens(self._encode, f"{sample} ", rubric.grades, judge.model)

    def tokens(self, pair: Pair) -> list[list[int]] | None:
        """The prompt of every criterion, in the rubric's order.

        A passage that makes the longest of them too long is cut at the end of a sentence; None: nothing of it fits.
        """
        pair = replace(
            pair,
            query=self._plain(pair.query),
            passages=tuple((self._plain(a), self._plain(b)) for a, b in pair.passages),
        )
        prompts = self._all(pair)
        if self.longest is None or max(map(len, prompts)) <= self.longest:
            return prompts

        def length(passages: Passages) -> int:
            return max(map(len, self._all(replace(pair, passages=passages))))

        shorter = cut_to_fit(pair.passages, self.judge.prompt_characters, self.longest, length)
        return self._all(replace(pair, passages=shorter)) if shorter else None

    def _all(self, pair: Pair) -> list[list[int]]:
        return [self._encode(self._text(pair, criterion) + self._ending) for criterion in self.rubric.questions]

    def _text(self, pair: Pair, criterion: str) -> str:
        from jinja2 import TemplateError

        text = judge_text(self.rubric, pair, criterion, self.judge.prompt_characters, self.is_chat)
        if not self.is_chat:
            return text
        arguments = {"enable_thinking": False, **self.judge.chat_template_kwargs}
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}], **arguments, add_generation_prompt=True, tokenize=False
                )
            )
        except TemplateError as error:
            raise InputError(
                f"generation.judge.model: the chat template of '{self.judge.model}' refuses the prompt ({error}). Set "
                "generation.judge.chat_template_kwargs as it wants them, or choose another model."
            ) from error

    def _encode(self, text: str) -> list[int]:
        """A chat template writes the special tokens itself."""
        return list(self.tokenizer.encode(text, add_special_tokens=not self.is_chat))

    def _plain(self, text: str) -> str:
        return as_text(text, self._special)
