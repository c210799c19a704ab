"""Templates: the text in which a language model reads a query and a passage, and the tokens whose logits are its score.

Data, one YAML file a family, in `distill/teachers/templates/`. A recipe names one of them, a file of its own, or the
text itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from cluster.errors import InputError
from cluster.mistakes import explain, listed, read_yaml
from cluster.settings import Settings
from distill.settings.teachers import TeacherSettings

Kind = Literal["causal", "seq2seq", "query_likelihood", "cross_encoder"]
FIELD = re.compile(r"\{(query|passage|instruction)\}")


class Template(Settings):
    """What a model reads of a pair, and how its score is read off.

    Each piece is made into tokens on its own, as the authors of the model do it; a piece is cut at the end of the
    passage. A line with `{instruction}` is left out where there is none.
    """

    models: list[str] = Field(default_factory=list, description="names of models, with * for any text, that read this")
    kind: Kind = Field(description="what kind of language model reads this")
    pieces: list[str] = Field(min_length=1, description="texts with {query}, {passage} and {instruction}")
    chat: bool = Field(False, description="the text is a user's turn in the chat template of the model")
    instruction: str | None = Field(None, description="what is searched for, where the recipe does not say")
    true_token: str | None = Field(None, description="token of the vocabulary that means relevant")
    false_token: str | None = Field(None, description="token that means irrelevant; empty: true_token alone counts")
    score: Literal["logit", "log_softmax"] = Field(
        "logit",
        description="logit: of true_token, less that of false_token; log_softmax: log-probability among the two",
    )
    query_share: float | None = Field(
        None, gt=0, lt=1, description="the piece of the query is cut at this share of max_tokens; empty: never cut"
    )

    @model_validator(mode="after")
    def _names_the_pair(self) -> Template:
        text = "".join(self.pieces)
        for name in ("query", "passage"):
            if (count := text.count(f"{{{name}}}")) != 1:
                raise ValueError(f"{{{name}}} stands in the template {count} times, expected once")
        if self.kind == "query_likelihood" and not re.fullmatch(r"\s*\{query\}", self.pieces[-1]):
            raise ValueError("the last piece of a query_likelihood template is {query} alone, with a space before it")
        if self.kind in ("causal", "seq2seq") and not self.true_token:
            raise ValueError("true_token is empty; name the token of the vocabulary that means relevant")
        if self.score == "log_softmax" and not self.false_token:
            raise ValueError("score: log_softmax needs a false_token")
        return self

    def texts(self, query: str, passage: str) -> list[str]:
        """The pieces with a pair and with the instruction in them."""
        fill = {"query": query, "passage": passage, "instruction": self.instruction or ""}
        return [FIELD.sub(lambda found: fill[found.group(1)], piece) for piece in self._without_empty_lines()]

    def _without_empty_lines(self) -> list[str]:
        if self.instruction:
            return self.pieces
        return [re.sub(r"[^\n]*\{instruction\}[^\n]*\n?", "", piece) for piece in self.pieces]


@cache
def shipped() -> Mapping[str, Template]:
    """The templates that come with Listwise, by name."""
    folder = Path(str(resources.files("distill"))) / "teachers" / "templates"
    return {path.stem: _read(path) for path in sorted(folder.glob("*.yaml"))}


def template_of(settings: TeacherSettings) -> Template | None:
    """The template of a teacher: the recipe's, else that of its model's name; None for a classifier that needs none.

    Raises:
        InputError: there is no such template, it has a mistake, it is for another kind of model, or a language
            model has none.
    """
    found = _found(settings)
    if found is None:
        if settings.kind == "cross_encoder":
            return None
        raise InputError(
            f"teacher model '{settings.model}': no template is known for it, so nobody knows how it was taught to "
            f"judge a pair. Set `template` to one of {', '.join(_names(settings.kind))}, to a YAML file like those, or "
            "to the text itself with {query} and {passage}; with a text of your own set true_token, and false_token."
        )
    if settings.kind not in ("cross_encoder", found.kind):
        raise InputError(
            f"teacher model '{settings.model}': its template is for kind {found.kind}, and the recipe says kind "
            f"{settings.kind}. Expected one of {', '.join(_names(settings.kind))}, or `kind: {found.kind}`."
        )
    changed = {
        name: value
        for name in ("instruction", "true_token", "false_token")
        if (value := getattr(settings, name)) is not None
    }
    return found.model_copy(update=changed)


def _found(settings: TeacherSettings) -> Template | None:
    text = settings.template
    if text is None:
        if settings.kind == "query_likelihood":
            return shipped()["query-likelihood"]
        name = str(settings.model).rstrip("/").rsplit("/", 1)[-1]
        known = [one for one in shipped().values() if one.kind == "causal" or settings.kind != "cross_encoder"]
        return next((one for one in known if any(fnmatch(name, pattern) for pattern in one.models)), None)
    if text in shipped():
        return shipped()[text]
    if text.endswith((".yaml", ".yml")):
        return _read(Path(text).expanduser())
    if "{" not in text:
        raise InputError(
            f"teacher model '{settings.model}': there is no template '{text}'. Expected one of "
            f"{', '.join(shipped())}, a YAML file like those, or a text with {{query}} and {{passage}}."
        )
    return _of_text(settings)


def _of_text(settings: TeacherSettings) -> Template:
    text = str(settings.template)
    pieces, kind = [text], settings.kind
    if kind == "query_likelihood" and (at := text.find("{query}")) > 0:
        at -= len(text[:at]) - len(text[:at].rstrip())
        pieces = [text[:at], text[at:]]
    fields = {
        "kind": kind,
        "pieces": pieces,
        "chat": settings.chat,
        "true_token": settings.true_token,
        "false_token": settings.false_token,
    }
    try:
        return Template.model_validate(fields)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InputError(f"teacher model '{settings.model}', template: {message}.") from error


def _read(path: Path) -> Template:
    data, places = read_yaml(path, "a template of a teacher")
    try:
        return Template.model_validate(data)
    except ValidationError as error:
        raise InputError(listed(str(path), explain(error, Template, places, f"{path}, line 1"))) from error


def _names(kind: str) -> list[str]:
    return [name for name, one in shipped().items() if one.kind == kind]
