"""Markdown: what it says, without its marks. Listings stay as they are, tables one row a line."""

from __future__ import annotations

import html
import re

from markdown_it import MarkdownIt
from markdown_it.token import Token

from generation.documents.document import Outline, Section
from generation.documents.plain_text import decode

_FRONT_MATTER = re.compile(r"\A---[ \t]*\n(.*?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_TITLE = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.MULTILINE)
_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)


def parse(data: bytes) -> tuple[Section, ...]:
    """Sections by headings; the title of a front matter stands above a text without headings."""
    text, title = decode(data), ""
    if front := _FRONT_MATTER.match(text):
        text = text[front.end() :]
        named = _TITLE.search(front.group(1))
        title = named.group(1) if named else ""
    outline = Outline()
    level = 0  # of the heading that is open
    row: list[str] = []
    table: list[str] | None = None
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "heading_open":
            level = int(token.tag[1:])
        elif token.type == "heading_close":
            level = 0
        elif token.type == "table_open":
            table = []
        elif token.type == "tr_close" and table is not None:
            table.append(" | ".join(row))
            row = []
        elif token.type == "table_close" and table is not None:
            outline.paragraph("\n".join(table))
            table = None
        elif token.type in ("fence", "code_block"):
            outline.paragraph(token.content)
        elif token.type == "html_block":
            outline.paragraph(html.unescape(_TAG.sub(" ", token.content)))
        elif token.type == "inline" and level:
            outline.heading(level, _inline(token))
        elif token.type == "inline" and table is not None:
            row.append(_inline(token))
        elif token.type == "inline":
            outline.paragraph(_inline(token))
    return outline.sections(title)


def _inline(token: Token) -> str:
    """The text of a line of Markdown: of a link its words, of an image its description."""
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "image"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
    return "".join(parts)
