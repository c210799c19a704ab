"""PDF, read by PDFium: text of the pages, sections by the bookmarks, without what stands on every page."""

from __future__ import annotations

import re
from collections import Counter, defaultdict

import pypdfium2 as pdfium

from generation.documents.document import BROKEN, ENCRYPTED, DocumentError, Outline, Section

SHORT = 0.7  # of the longest line of a page: a line that is shorter and ends a sentence ends its paragraph
_EDGE = 2  # lines at the top and at the bottom of a page that may be a running title or a page number
_LEAST_PAGES = 3  # from which a line on most of them is a running title
_DIGITS = re.compile(r"\d+")
_HYPHEN = re.compile(r"(?<=\w)[\u00ad\u0002\ufffe-]\n(?=[^\W\d_A-Z])")  # PDFium marks one that the line break made
_SENTENCE_END = re.compile(r"[.!?:。！？؟।]['\"”»)]?$")
_PASSWORD = "password"


def parse(data: bytes) -> tuple[Section, ...]:
    """Sections that begin on the pages of bookmarks; without bookmarks the title stands above all.

    Raises:
        DocumentError: a password is needed, or PDFium cannot read the file.
    """
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        reason = ENCRYPTED if _PASSWORD in str(error).lower() else BROKEN
        raise DocumentError(reason, str(error)) from None
    try:
        pages = _without_running_titles([_lines(document[number]) for number in range(len(document))])
        bookmarks: dict[int, list[tuple[int, str]]] = defaultdict(list)
        for bookmark in document.get_toc():
            target = bookmark.get_dest()
            number = target.get_index() if target else None
            if number is not None:
                bookmarks[number].append((bookmark.level + 1, bookmark.get_title()))
        title = document.get_metadata_dict().get("Title", "")
    finally:
        document.close()
    writer = _Writer()
    for number, lines in enumerate(pages):
        writer.page(lines, bookmarks[number])
    return writer.sections(title)


class _Writer:
    """Makes paragraphs of lines; one that no sentence ends at the foot of a page goes on at the top of the next."""

    def __init__(self) -> None:
        self._outline = Outline()
        self._lines: list[str] = []

    def page(self, lines: list[str], bookmarks: list[tuple[int, str]]) -> None:
        """A page in parts: each begins at the line that says what a bookmark says, or at the top of the page."""
        begin = 0
        for level, name in bookmarks:
            wanted = _letters(name)
            at = next((n for n in range(begin, len(lines)) if wanted and _letters(lines[n]).endswith(wanted)), None)
            if at is not None:
                self._add(lines[begin:at])
                begin = at + 1
            self._end_paragraph()
            self._outline.heading(level, name)
        self._add(lines[begin:])

    def sections(self, title: str) -> tuple[Section, ...]:
        self._end_paragraph()
        return self._outline.sections(title)

    def _add(self, lines: list[str]) -> None:
        width = max(map(len, lines), default=0)
        for number, line in enumerate(lines):
            if line:
                self._lines.append(line)
            is_last = number == len(lines) - 1
            ends = _SENTENCE_END.search(line) is not None and (is_last or len(line) < SHORT * width)
            if ends or (not line and not is_last):
                self._end_paragraph()

    def _end_paragraph(self) -> None:
        text = "\n".join(self._lines)
        self._lines = []
        self._outline.paragraph(_HYPHEN.sub("", text).replace("\n", " "))


def _lines(page: pdfium.PdfPage) -> list[str]:
    text_page = page.get_textpage()
    try:
        text = text_page.get_text_bounded()
    finally:
        text_page.close()
        page.close()
    return [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _without_running_titles(pages: list[list[str]]) -> list[list[str]]:
    """Pages without the lines at their edges that, apart from numbers, stand on at least half of them."""
    if len(pages) < _LEAST_PAGES:
        return pages
    counts: Counter[str] = Counter()
    for lines in pages:
        counts.update({_DIGITS.sub("#", lines[n]) for n in _edges(lines)})
    running = {line for line, count in counts.items() if line and 2 * count >= len(pages) and count >= _LEAST_PAGES}
    kept = []
    for lines in pages:
        gone = {n for n in _edges(lines) if _DIGITS.sub("#", lines[n]) in running}
        kept.append([line for n, line in enumerate(lines) if n not in gone])
    return kept


def _edges(lines: list[str]) -> list[int]:
    written = [n for n, line in enumerate(lines) if line]
    return sorted({*written[:_EDGE], *written[-_EDGE:]})


def _letters(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())
