"""Which fields of a raw record are its id, title and text, and what is wrong with one that lacks them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError
from cluster.jsonl import read_id, read_text
from generation.readers.base import Record
from generation.settings import CorpusSettings

ID_FIELDS = ("_id", "id", "docid", "passage_id")
TEXT_FIELDS = ("text", "contents", "passage")
DEFAULT_TITLE = "title"
CORRECT = "Correct the record, or name another field"


@dataclass(frozen=True)
class Fields:
    """Candidates for each field, in order of preference; the first one that a record has counts."""

    id: tuple[str, ...] = ID_FIELDS
    title: str = DEFAULT_TITLE
    text: tuple[str, ...] = TEXT_FIELDS

    @classmethod
    def of(cls, corpus: CorpusSettings) -> Fields:
        """The fields that the recipe names, else the usual ones."""
        return cls(
            (corpus.id_field,) if corpus.id_field else ID_FIELDS,
            corpus.title_field,
            (corpus.text_field,) if corpus.text_field else TEXT_FIELDS,
        )

    @property
    def all(self) -> tuple[str, ...]:
        """Every field that may be read."""
        return (*self.id, self.title, *self.text)

    def check(self, names: Collection[str], place: str) -> None:
        """Refuses a table whose columns lack a field.

        Raises:
            InputError: names the place, the field, and the fields that are there.
        """
        self._names(names, place)
        if self.title != DEFAULT_TITLE:
            self._find((self.title,), names, place, "title")

    def record(self, raw: Mapping[str, Any], file: str, where: str) -> Record:
        """Turns a raw record into a passage. An empty text or null is allowed: such a passage is dropped later.

        Raises:
            InputError: a field is missing or has the wrong type.
        """
        place = f"{file}, {where}"
        self.check(raw.keys(), place)
        id_field, text_field = self._names(raw.keys(), place)
        passage_id = read_id(raw, id_field, place, f"{CORRECT} with corpus.id_field.")
        return Record(
            passage_id, _optional_text(raw, self.title, place), _optional_text(raw, text_field, place), file, where
        )

    def _names(self, names: Collection[str], place: str) -> tuple[str, str]:
        """Names of the id field and of the text field."""
        return self._find(self.id, names, place, "id"), self._find(self.text, names, place, "text")

    @staticmethod
    def _find(candidates: tuple[str, ...], names: Collection[str], place: str, role: str) -> str:
        for name in candidates:
            if name in names:
                return name
        wanted = f"'{candidates[0]}'" if len(candidates) == 1 else "one of " + ", ".join(map(repr, candidates))
        there = ", ".join(sorted(map(str, names))[:20]) or "none"
        raise InputError(
            f"{place}: there is no {role} field. Expected {wanted}; the fields there are: {there}. "
            f"Name the right one with corpus.{role}_field."
        )


def _optional_text(raw: Mapping[str, Any], field: str, place: str) -> str:
    return "" if raw.get(field) is None else read_text(raw, field, place, f"{CORRECT} in the recipe's corpus section.")
