"""HTML: the text of the page's main part, without what surrounds it on every page."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from generation.documents.document import Outline, Section
from generation.documents.plain_text import decode

_DECLARED = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)
_HEAD = 2048  # bytes in which a page declares its encoding
_SURROUNDINGS = (
    "script, style, noscript, template, svg, iframe, object, canvas, nav, footer, aside, form, button, select, dialog, "
    "[role=navigation], [role=banner], [role=contentinfo], [role=search], [aria-hidden=true], [hidden]"
)
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS_LIST = """
    address article blockquote body caption dd details div dl dt fieldset figcaption figure header hr li main ol p
    section summary table tbody tfoot thead tr ul
"""
_BLOCKS = frozenset(_BLOCKS_LIST.split())
_CELLS = frozenset(["td", "th"])


def parse(data: bytes) -> tuple[Section, ...]:
    """Sections by headings, of the main part if the page marks one; the page's title stands above one without any."""
    declared = _DECLARED.search(data[:_HEAD])
    page = LexborHTMLParser(decode(data, declared.group(1).decode("ascii") if declared else None))
    title = page.css_first("title")
    name = title.text() if title else ""
    for node in page.css(_SURROUNDINGS):
        node.decompose()
    for node in page.css("header"):
        if node.css_first("h1, h2, h3") is None:
            node.decompose()
    marked = page.css("main, [role=main]") or page.css("article")
    walk = _Walk()
    for root in marked[:1] if len(marked) == 1 else [page.body]:
        if root is not None:
            walk.go(root)
    walk.end_paragraph()
    return walk.outline.sections(name)


class _Walk:
    """Goes through a page in reading order; a stack instead of recursion, since pages may be nested without end."""

    def __init__(self) -> None:
        self.outline = Outline()
        self._text: list[str] = []

    def go(self, root: LexborNode) -> None:
        """Reads a node and all below it."""
        stack: list[tuple[LexborNode, bool]] = [(root, False)]
        while stack:
            node, is_end = stack.pop()
            tag = node.tag or ""
            if is_end:
                self._end(tag)
            elif tag == "-text":
                self._text.append(node.text(deep=False))
            elif tag in _HEADINGS:
                self.end_paragraph()
                self.outline.heading(_HEADINGS[tag], node.text())
            elif tag == "pre":
                self.end_paragraph()
                self.outline.paragraph(node.text())
            elif tag == "br":
                self._text.append("\n")
            elif tag and not tag.startswith(("-", "!", "_")):
                if tag in _BLOCKS and tag != "tr":
                    self.end_paragraph()
                stack.append((node, True))
                children = list(node.iter(include_text=True))
                stack += [(child, False) for child in reversed(children)]

    def end_paragraph(self) -> None:
        """Ends the text that was read so far."""
        lines = ("".join(self._text)).split("\n")
        text = " ".join(" ".join(lines).split()).strip(" |")
        self._text = []
        self.outline.paragraph(text)

    def _end(self, tag: str) -> None:
        if tag in _CELLS:
            self._text.append(" | ")
        elif tag in _BLOCKS:
            self.end_paragraph()
