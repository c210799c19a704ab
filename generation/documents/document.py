"""What parsers make of a file: sections of text, each with the headings it stands under."""

from __future__ import annotations

from dataclasses import dataclass

BROKEN = "broken"  # the file is not what its name says, or damaged
ENCRYPTED = "encrypted"
NO_TEXT = "no_text"  # an empty file, or a scan
TOO_LARGE = "too_large"
UNREADABLE = "unreadable"  # the file cannot be opened
REASONS = (BROKEN, ENCRYPTED, NO_TEXT, TOO_LARGE, UNREADABLE)


@dataclass(frozen=True)
class Section:
    """A piece of a document without a heading inside.

    Attributes:
        headings: from the outermost to the nearest.
        text: paragraphs, with an empty line between them.
    """

    headings: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Document:
    """A document, or a record that is cut as one.

    Attributes:
        document_id: the path in its folder, or the id of the record.
        sections: in order.
        place: file, or file and position, for messages.
    """

    document_id: str
    sections: tuple[Section, ...]
    place: str


@dataclass(frozen=True)
class Unreadable:
    """A document without text, and why: one of `REASONS`, with the words of whoever tried."""

    document_id: str
    reason: str
    detail: str


class DocumentError(Exception):
    """A file has no text for us. It is counted and left out; the run goes on."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Outline:
    """Builds sections from headings and paragraphs in the order of the document."""

    def __init__(self) -> None:
        self._path: list[tuple[int, str]] = []
        self._paragraphs: list[str] = []
        self._sections: list[Section] = []

    def heading(self, level: int, text: str) -> None:
        """A heading of a level, 1 is the outermost; it ends the headings of its level and of those below."""
        self._close()
        self._path = [(other, name) for other, name in self._path if other < level]
        if name := " ".join(text.split()):
            self._path.append((level, name))

    def paragraph(self, text: str) -> None:
        """A paragraph, a list item, a table or a listing."""
        if text.strip():
            self._paragraphs.append(text.strip("\n"))

    def sections(self, title: str = "") -> tuple[Section, ...]:
        """All sections; a title stands above those of a document without any heading."""
        self._close()
        name = " ".join(title.split())
        if name and not any(section.headings for section in self._sections):
            return tuple(Section((name,), section.text) for section in self._sections)
        return tuple(self._sections)

    def _close(self) -> None:
        if self._paragraphs:
            headings = tuple(name for _, name in self._path)
            self._sections.append(Section(headings, "\n\n".join(self._paragraphs)))
        self._paragraphs = []
