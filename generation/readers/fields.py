"""Fields of a raw record that hold its id, title and text; errors for records and tables without them."""

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
    """Names that each field may have; the first name that a record has is used."""

    id: tuple[str, ...] = ID_FIELDS
    title: str = DEFAULT_TITLE
    text: tuple[str, ...] = TEXT_FIELDS

    @classmethod
    def of(cls, corpus: CorpusSettings) -> Fields:
        """The names in the recipe, or the usual names."""
        return cls(
            (corpus.id_field,) if corpus.id_field else ID_FIELDS,
            corpus.title_field,
            (corpus.text_field,) if corpus.text_field else TEXT_FIELDS,
        )

    @property
    def all(self) -> tuple[str, ...]:
        """Every name of a field that may be read."""
        return (*self.id, self.title, *self.text)

    def check(self, names: Collection[str], place: str) -> None:
        """Refuses a table or record that lacks a field.

        Args:
            names: names of its columns or fields.
            place: file, or file and position, for messages.

        Raises:
            InputError: names the place, the missing field, and the existing fields.
        """
        self._names(names, place)
        if self.title != DEFAULT_TITLE:
            self._find((self.title,), names, place, "title")

    def are_in(self, names: Collection[str]) -> bool:
        """Whether a table with these columns has all fields that `check` asks for."""
        titled = self.title == DEFAULT_TITLE or self.title in names
        return titled and all(any(name in names for name in candidates) for candidates in (self.id, self.text))

    def record(self, raw: Mapping[str, Any], file: str, position: str) -> Record:
        """Reads the fields of a raw record. The text may be empty or null: a later stage drops such passages.

        Args:
            raw: the fields by name.
            file: file of the record, for messages.
            position: position in the file, for messages: "line 7".

        Raises:
            InputError: a field is missing or has the wrong type.
        """
        place = f"{file}, {position}"
        self.check(raw.keys(), place)
        id_field, text_field = self._names(raw.keys(), place)
        passage_id = read_id(raw, id_field, place, f"{CORRECT} with corpus.id_field.")
        return Record(
            passage_id, _optional_text(raw, self.title, place), _optional_text(raw, text_field, place), file, position
        )

    def _names(self, names: Collection[str], place: str) -> tuple[str, str]:
        """The existing id field and text field."""
        return self._find(self.id, names, place, "id"), self._find(self.text, names, place, "text")

    @staticmethod
    def _find(candidates: tuple[str, ...], names: Collection[str], place: str, role: str) -> str:
        for name in candidates:
            if name in names:
                return name
        expected = f"'{candidates[0]}'" if len(candidates) == 1 else "one of " + ", ".join(map(repr, candidates))
        existing = ", ".join(sorted(map(str, names))[:20]) or "none"
        raise InputError(
            f"{place}: there is no {role} field. Expected {expected}; the existing fields are: {existing}. "
            f"Name the right field with corpus.{role}_field."
        )


def _optional_text(raw: Mapping[str, Any], field: str, place: str) -> str:
    return "" if raw.get(field) is None else read_text(raw, field, place, f"{CORRECT} in the recipe's corpus section.")
