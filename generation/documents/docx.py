"""Word documents: paragraphs and tables in order, headings by their styles."""

from __future__ import annotations

import io
import re
import zipfile

import docx
from docx.table import Table

from generation.documents.document import ENCRYPTED, TOO_LARGE, DocumentError, Outline, Section

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # a container around a document with a password, or an old .doc
_HEADING = re.compile(r"heading (\d)", re.IGNORECASE)
_MOST_UNPACKED = 1 << 30  # bytes


def parse(data: bytes) -> tuple[Section, ...]:
    """Sections by the styles Title and Heading 1 to 9; the document's title stands above one without headings.

    Raises:
        DocumentError: it has a password, or unpacks to more than 1 GiB.
    """
    if data.startswith(_OLE):
        raise DocumentError(ENCRYPTED, "it has a password, or is an old .doc")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > _MOST_UNPACKED:
            raise DocumentError(TOO_LARGE, "it unpacks to more than 1 GiB")
    document = docx.Document(io.BytesIO(data))
    outline = Outline()
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            outline.paragraph("\n".join(_row([cell.text for cell in row.cells]) for row in block.rows))
            continue
        style = (block.style.name if block.style else None) or ""
        if style.lower() == "title":
            outline.heading(1, block.text)
        elif found := _HEADING.fullmatch(style):
            outline.heading(int(found.group(1)) + 1, block.text)  # below the title
        else:
            outline.paragraph(block.text)
    return outline.sections(document.core_properties.title or "")


def _row(cells: list[str]) -> str:
    """A row of a table; a cell that spans several columns comes once."""
    once = [cell for number, cell in enumerate(cells) if number == 0 or cell != cells[number - 1]]
    return " | ".join(" ".join(cell.split()) for cell in once)
