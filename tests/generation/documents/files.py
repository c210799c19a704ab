"""Documents of every format, written by the libraries that write such files."""

from __future__ import annotations

import io
import textwrap

import docx
from reportlab.lib.pagesizes import A4
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.pdfgen import canvas

PARTS = ["wheel", "belt", "lever", "spring", "valve", "chain", "gear", "crank", "rod", "pin", "cam", "shaft"]


def prose(topic: str, sentences: int) -> str:
    """Different sentences of some twenty tokens each."""
    return " ".join(
        f"The {topic} of number {n} needs care in spring, since its {PARTS[n % 12]} turns with the {PARTS[n * 5 % 12]}."
        for n in range(sentences)
    )


def word_file() -> bytes:
    """A title, two levels of headings, a table with a wide cell."""
    document = docx.Document()
    document.add_heading("Handbook", 0)
    document.add_heading("Oil", 1)
    document.add_paragraph("Oil keeps the gear quiet.")
    document.add_heading("In winter", 2)
    document.add_paragraph("Thin oil runs at ten degrees below zero.")
    table = document.add_table(2, 2)
    for cell, text in zip([cell for row in table.rows for cell in row.cells], ["oil", "5 W", "", ""], strict=True):
        cell.text = text
    table.rows[1].cells[0].merge(table.rows[1].cells[1]).text = "change it in May"
    document.add_heading("Belts", 1)
    document.add_paragraph("A belt is changed every second year.")
    file = io.BytesIO()
    document.save(file)
    return file.getvalue()


def pdf_file(pages: list[list[str]], bookmarks: bool = True, password: str | None = None) -> bytes:
    """Pages with a running title, a chapter's heading, wrapped paragraphs and a page number."""
    file = io.BytesIO()
    encryption = StandardEncryption(password) if password else None
    sheet = canvas.Canvas(file, pagesize=A4, encrypt=encryption)
    sheet.setTitle("Repairs")
    for number, paragraphs in enumerate(pages, 1):
        sheet.drawString(60, 810, "The builders' handbook")
        if bookmarks:
            sheet.bookmarkPage(f"p{number}")
            sheet.addOutlineEntry(f"Chapter {number}", f"p{number}", 0)
            sheet.drawString(60, 780, f"Chapter {number}")
        y = 750
        for paragraph in paragraphs:
            for line in textwrap.wrap(paragraph, 70):
                sheet.drawString(60, y, line)
                y -= 14
        sheet.drawString(300, 30, f"page {number}")
        sheet.showPage()
    sheet.save()
    return file.getvalue()


MARKDOWN = """\
---
title: "The guide"
---
<!-- a note of the author -->
# Guide

Welcome to **the guide**, see [the site](https://example.org).

## Install

### Linux

One *command*
on one line.

```sh
# no heading
apt install pump
```

### Windows

- first `setup`
- then start

| part | weight |
|------|-------:|
| pump | 3 kg   |

Underlined
----------

The end.
"""

HTML = """\
<!doctype html><html><head><meta charset="windows-1252"><title>Pumps – Shop</title><style>p {}</style></head><body>
<header><a href="/">Home</a></header><nav><ul><li>About us</li></ul></nav>
<h1>Pumps</h1><p>A pump moves <b>wa</b>ter
 uphill.<br>It needs care.</p>
<div><h2>Gr\xf6\xdfe</h2><ul><li>small</li><li>large</li></ul><script>var x = 1</script>
<table><tr><th>size</th><th>litres</th></tr><tr><td>small</td><td>3</td></tr></table><pre>on
  off</pre></div>
<footer>All rights reserved</footer></body></html>
"""
