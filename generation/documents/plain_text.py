"""Plain text, in whatever encoding it is; other parsers of text files decode with it too."""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from generation.documents.document import BROKEN, DocumentError, Section

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_LOOKED_AT = 1 << 20  # bytes that tell the encoding of a file that is not UTF-8


def parse(data: bytes) -> tuple[Section, ...]:
    """The whole text as one section without headings."""
    return (Section((), decode(data)),)


def decode(data: bytes, declared: str | None = None) -> str:
    """Text of a file: by its byte order mark, as UTF-8, as declared, or in the encoding that its bytes look like.

    Raises:
        DocumentError: it is no text.
    """
    encodings = [name for mark, name in _MARKS.items() if data.startswith(mark)][:1] or ["utf-8"]
    encodings += [declared] if declared else []
    if "utf-16" not in encodings and "utf-32" not in encodings and b"\0" in data[:_LOOKED_AT]:
        raise DocumentError(BROKEN, "zero bytes, which no text has")
    for encoding in encodings:
        try:
            return _lines(data.decode(encoding))
        except (UnicodeDecodeError, LookupError):
            continue
    guess = from_bytes(data[:_LOOKED_AT]).best()
    if guess is None:
        raise DocumentError(BROKEN, "no encoding fits its bytes")
    return _lines(data.decode(guess.encoding, errors="replace"))


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
