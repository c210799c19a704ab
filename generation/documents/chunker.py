"""Cuts documents into chunks that a student reads to their end: at headings, then at sentences, then at words.

A chunk is counted as the student gets it, with prompt, title and special tokens, so none is longer than `tokens`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from generation.documents.document import Document, Section
from generation.documents.tokens import TokenCounter
from generation.language.detect import identify
from generation.language.names import AUTO, language_code
from generation.language.segmentation import pieces
from generation.language.sentences import split_sentences

SEPARATOR = " > "  # between the headings of a title
TITLE_SHARE = 3  # a title has at most one in so many tokens
_LEAST = 4  # tokens of text beside the longest prompt and title
_SEAM = 2  # tokens that a title and a text may have together beyond those of each
_BYTES = 4  # of a character, and so the most tokens of one
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True)
class Chunking:
    """How documents are cut.

    Attributes:
        model: whose tokenizer counts; folder or id of the hub.
        tokens: most tokens of a chunk, with its title and the special tokens.
        overlap: most tokens of the sentences with which a chunk repeats the end of the one before it in its section.
        prefix: prompt that the student puts before a passage.
        language: of the documents, a code, or `auto`: each document's own.
        characters: most characters of a document that are read.
        revision: commit, branch or tag of an id; None: its main branch.
    """

    model: str
    tokens: int
    overlap: int
    prefix: str = ""
    language: str = AUTO
    characters: int = 100_000
    revision: str | None = None


@dataclass(frozen=True)
class Chunk:
    """A piece of a document. Text and title are NFKC-normalised."""

    title: str
    text: str


@dataclass(frozen=True)
class _Unit:
    """What is never cut: a sentence, or a part of one that is longer than a chunk; `glue` stands before it."""

    text: str
    tokens: int
    glue: str


class Chunker:
    """Cuts documents.

    Args:
        chunking: lengths and tokenizer.

    Raises:
        InputError: the tokenizer cannot be loaded.
    """

    def __init__(self, chunking: Chunking) -> None:
        self.chunking = chunking
        self.counter = TokenCounter(chunking.model, chunking.revision)

    def chunks(self, document: Document) -> list[Chunk]:
        """The chunks of a document, in order."""
        named = self.chunking.language
        beginning = " ".join(section.text[:500] for section in document.sections[:5])
        language = identify(beginning) if named == AUTO else str(language_code(named))
        return [chunk for section in document.sections for chunk in self._of_section(section, language)]

    def _of_section(self, section: Section, language: str) -> Iterator[Chunk]:
        title = self._title(section.headings)
        budget = max(_LEAST, self.chunking.tokens - self._count(title) - _SEAM)
        units = self._units(unicodedata.normalize("NFKC", section.text), language, budget)
        first = 0
        while first < len(units):
            last, used = first, 0
            while last < len(units) and (last == first or used + units[last].tokens <= budget):
                used += units[last].tokens
                last += 1
            # Tokens of sentences add up to about those of the whole, not always exactly.
            while last > first + 1 and self._count(f"{title} {_joined(units[first:last])}") > self.chunking.tokens:
                last -= 1
            yield Chunk(title, _joined(units[first:last]))
            first = last if last == len(units) else self._begin_of_next(units, first, last)

    def _begin_of_next(self, units: list[_Unit], first: int, last: int) -> int:
        """Where the next chunk begins: some sentences before the end of this one, and always after its beginning."""
        begin, repeated = last, 0
        while begin - 1 > first and repeated + units[begin - 1].tokens <= self.chunking.overlap:
            begin -= 1
            repeated += units[begin].tokens
        return begin

    def _title(self, headings: tuple[str, ...]) -> str:
        """The headings, the outermost left out first where they are long."""
        names = [unicodedata.normalize("NFKC", name) for name in headings]
        most = self.chunking.tokens // TITLE_SHARE
        for start in range(len(names)):
            title = SEPARATOR.join(names[start:])
            if self.counter.count([title])[0] <= most:
                return title
        return self._parts(names[-1], most)[0] if names else ""

    def _units(self, text: str, language: str, budget: int) -> list[_Unit]:
        found: list[tuple[str, str]] = []
        for paragraph in _PARAGRAPH_END.split(text):
            glue, at = "\n", 0
            for sentence in split_sentences(paragraph, language):
                found.append((sentence, glue if found else ""))
                begin = paragraph.find(sentence, at)  # -1 where a line break inside of it was taken out
                at = begin + len(sentence) if begin >= 0 else at
                glue = " " if begin < 0 or paragraph[at : at + 1].isspace() else ""
        counts = self.counter.count([sentence for sentence, _ in found])
        units: list[_Unit] = []
        for (sentence, glue), count in zip(found, counts, strict=True):
            tokens = count - self.counter.special
            if tokens <= budget:
                units.append(_Unit(sentence, tokens, glue))
                continue
            for number, part in enumerate(self._parts(sentence, budget)):
                units.append(_Unit(part, self.counter.count([part])[0] - self.counter.special, "" if number else glue))
        return units

    def _parts(self, text: str, budget: int) -> list[str]:
        """A text in parts of at most `budget` tokens, cut between words, or inside of one that is longer."""
        parts: list[str] = []
        part, used = "", 0
        most = max(1, budget // _BYTES)
        words = [word[start : start + most] for word in pieces(text) for start in range(0, len(word), most)]
        for word, count in zip(words, self.counter.count(words), strict=True):
            tokens = max(1, count - self.counter.special)
            if part and used + tokens > budget:
                parts.append(part.strip())
                part, used = "", 0
            part += word
            used += tokens
        return [each for each in [*parts, part.strip()] if each]

    def _count(self, text: str) -> int:
        return self.counter.count([f"{self.chunking.prefix}{text}".strip()])[0]


def _joined(units: list[_Unit]) -> str:
    return "".join(f"{unit.glue if number else ''}{unit.text}" for number, unit in enumerate(units)).strip()
