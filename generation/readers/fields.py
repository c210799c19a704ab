"""Which fields of a raw record are its id, title and text, and what is wrong with one that lacks them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.errors import InputError
from cluster.unicode import is_valid_utf8
from generation.readers.base import Record
from generation.settings import CorpusSettings

ID_FIELDS = ("_id", "id", "docid", "passage_id")
TEXT_FIELDS = ("text", "contents", "passage")
DEFAULT_TITLE = "title"


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
        self._find(self.id, names, place, "id")
        self._find(self.text, names, place, "text")
        if self.title != DEFAULT_TITLE:
            self._find((self.title,), names, place, "title")

    def record(self, raw: Mapping[str, Any], file: str, where: str) -> Record:
        """Turns a raw record into a passage. An empty text or null is allowed: such a passage is dropped later.

        Raises:
            InputError: a field is missing or has the wrong type.
        """
        place = f"{file}, {where}"
        self.check(raw.keys(), place)
        id_field = self._find(self.id, raw.keys(), place, "id")
        text_field = self._find(self.text, raw.keys(), place, "text")
        passage_id = raw[id_field]
        if isinstance(passage_id, int) and not isinstance(passage_id, bool):
            passage_id = str(passage_id)
        if not isinstance(passage_id, str) or not passage_id.strip():
            raise InputError(
                f"{place}: field '{id_field}' is {_shown(passage_id)}. Expected the passage's id, a non-empty string "
                f"or whole number. Give the record an id, or name another field with corpus.id_field."
            )
        if not is_valid_utf8(passage_id):
            raise InputError(
                f"{place}: field '{id_field}' is {_shown(passage_id)}, with half of a surrogate pair. "
                f"Write the character in full, as UTF-8."
            )
        title = self._string(raw.get(self.title), self.title, place)
        return Record(passage_id, title, self._string(raw[text_field], text_field, place), file, where)

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

    @staticmethod
    def _string(value: Any, field: str, place: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str):
            raise InputError(
                f"{place}: field '{field}' is {_shown(value)}. Expected a string. Correct the record, or name another "
                f"field in the recipe's corpus section."
            )
        return value


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:39] + '…'} ({type(value).__name__})"
