"""Which parser reads which file. Parsers are optional packages; one that lacks is named before anything is read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import PurePath

from cluster.errors import InputError
from generation.documents.document import BROKEN, NO_TEXT, TOO_LARGE, DocumentError, Section

MOST_BYTES = 256 << 20  # of a file, which a parser holds in memory several times


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        suffixes: in lower case.
        parser: module with `parse(data: bytes) -> tuple[Section, ...]`.
        package: that the parser imports, and its name for pip; None: none.
    """

    suffixes: tuple[str, ...]
    parser: str
    package: tuple[str, str] | None = None


FORMATS = (
    Format((".txt", ".text"), "plain_text"),
    Format((".md", ".markdown"), "markdown", ("markdown_it", "markdown-it-py")),
    Format((".html", ".htm", ".xhtml"), "html", ("selectolax", "selectolax")),
    Format((".pdf",), "pdf", ("pypdfium2", "pypdfium2")),
    Format((".docx",), "docx", ("docx", "python-docx")),
)
SUFFIXES = tuple(suffix for kind in FORMATS for suffix in kind.suffixes)


def is_document(name: str) -> bool:
    """Whether a file's name ends as a document's; hidden files and those that editors leave are none."""
    base = PurePath(name).name
    return base.lower().endswith(SUFFIXES) and not base.startswith((".", "~$"))


def check_parsers(names: Iterable[str]) -> None:
    """Refuses files whose parser is not installed.

    Raises:
        InputError: names the format, a file, the package, and how to install it.
    """
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(PurePath(name).suffix.lower(), name)
    for suffix, name in first.items():
        package = _format(suffix).package
        if package and find_spec(package[0]) is None:
            raise InputError(
                f"corpus.path: {name} and other {suffix} files need the package {package[1]}, which is not installed. "
                f"Install it on every machine with: pip install 'listwise[documents]'; or take these files away."
            )


def parse(name: str, data: bytes) -> tuple[Section, ...]:
    """The sections of a file.

    Args:
        name: of the file; its ending says which parser reads it.
        data: its content.

    Raises:
        DocumentError: it has no text, or cannot be read.
    """
    if len(data) > MOST_BYTES:
        raise DocumentError(TOO_LARGE, f"{len(data) >> 20} MiB; {MOST_BYTES >> 20} MiB is the most")
    parser: Callable[[bytes], tuple[Section, ...]] = importlib.import_module(
        f"generation.documents.{_format(PurePath(name).suffix.lower()).parser}"
    ).parse
    try:
        sections = parser(data)
    except DocumentError:
        raise
    except Exception as error:  # a parser meets every damage that files can have, each with an error of its own
        raise DocumentError(BROKEN, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    if not any(section.text.strip() for section in sections):
        raise DocumentError(NO_TEXT, "no text in it; a scan has none before text recognition")
    return sections


def _format(suffix: str) -> Format:
    return next(kind for kind in FORMATS if suffix in kind.suffixes)
