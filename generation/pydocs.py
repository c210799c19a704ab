"""The demo's corpus: bodies of docstrings are the passages, their summary lines human-written queries for evaluation.

A passage has an empty title and no word of its dotted name beyond what its author wrote in the body: the name would
give the answer away (`numpy.linalg.norm` names the norm). Aliases, the same text under several names, count once.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

from cluster.errors import InputError
from generation.docstrings import Docstring, SourceFile, file_docstrings, source_files

PREFIX = "pydocs://"
DEFAULT_PACKAGES = ("stdlib", "numpy", "scipy")
ALIAS_OVERLAP = 0.9  # share of common five-word shingles from which two bodies count as the same text
_SKETCH = 4
_WORD = re.compile(r"[^\W\d_]+")
_MARKUP = re.compile(r"`+|:(?:\w+):(?=`)|\*+")
_BOILERPLATE = re.compile(
    r">>>|::| : |%\(|\bdeprecated\b|\binternal\b|\bprivate\b|^(see|same as|todo|note|options)\b|\{"
)


def parse_packages(path: str) -> tuple[str, ...]:
    """Packages that a `pydocs://` address names; alone it means the standard library, NumPy and SciPy.

    Raises:
        InputError: the list has an empty name or names one twice.
    """
    listed = path.removeprefix(PREFIX).strip("/ ")
    packages = tuple(name.strip() for name in listed.split(",")) if listed else DEFAULT_PACKAGES
    if not all(packages) or len(set(packages)) < len(packages):
        raise InputError(
            f"{path}: expected package names separated by commas, each once, such as pydocs://stdlib,numpy"
        )
    return packages


@functools.lru_cache(maxsize=4)
def collect(packages: tuple[str, ...]) -> tuple[tuple[SourceFile, tuple[Docstring, ...]], ...]:
    """Docstrings of every file of the packages, aliases left out, in a fixed order.

    Raises:
        InputError: a package is not installed.
    """
    files = [file for package in packages for file in source_files(package)]
    seen = _Aliases()
    return tuple((file, tuple(doc for doc in file_docstrings(file) if seen.add(doc.body))) for file in files)


def judged(packages: tuple[str, ...]) -> list[tuple[Docstring, str]]:
    """Docstrings whose summary makes a fair query, with that query.

    Left out: summaries under four words or 20 characters, boilerplate, those that several docstrings share, and those
    that stand in their passage.
    """
    docs = [doc for _, found in collect(packages) for doc in found]
    shared = Counter(_letters(doc.summary) for doc in docs)
    pairs = [(doc, query_of(doc.summary)) for doc in docs if shared[_letters(doc.summary)] == 1]
    return [(doc, query) for doc, query in pairs if _is_fair(query) and _letters(query) not in _letters(doc.body)]


def query_of(summary: str) -> str:
    """A summary as a person would type it: without markup and the final full stop."""
    return " ".join(_MARKUP.sub("", unicodedata.normalize("NFKC", summary)).split()).rstrip(". ")


def write_judged(packages: tuple[str, ...] | str, folder: Path, max_queries: int, seed: int) -> int:
    """Writes a BEIR folder: corpus.jsonl, queries.jsonl, and qrels/test.tsv that judge each query's own passage.

    Args:
        packages: package names, or a `pydocs://` address.
        folder: made if absent.
        max_queries: most queries; a sample that depends on the seed and the names alone.
        seed: of the sample.

    Returns:
        Number of queries written.

    Raises:
        InputError: a package is not installed, or none of its summaries can be judged.
    """
    names = parse_packages(packages) if isinstance(packages, str) else tuple(packages)
    pairs = judged(names)
    if not pairs:
        raise InputError(
            f"{PREFIX}{','.join(names)}: no docstring has a summary line that can serve as a query. "
            f"Name packages with more documentation, such as {PREFIX}stdlib,numpy,scipy."
        )
    chosen = {doc.name for doc, _ in sorted(pairs, key=lambda pair: _lot(seed, pair[0].name))[:max_queries]}
    kept = [(doc, query) for doc, query in pairs if doc.name in chosen]
    docs = [doc for _, found in collect(names) for doc in found]
    passages = [{"_id": doc.name, "title": "", "text": doc.body} for doc in docs]
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "corpus.jsonl", [json.dumps(passage, ensure_ascii=False) for passage in passages])
    queries = [{"_id": f"summary:{doc.name}", "text": query} for doc, query in kept]
    _write_lines(folder / "queries.jsonl", [json.dumps(query, ensure_ascii=False) for query in queries])
    lines = [f"{query['_id']}\t{doc.name}\t1" for query, (doc, _) in zip(queries, kept, strict=True)]
    _write_lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return len(kept)


class _Aliases:
    """Recognises a body that was seen before, up to small differences, by comparing word shingles.

    Candidates share one of the four smallest shingle hashes (a bottom-k sketch, Broder 1997); the overlap is exact.
    """

    def __init__(self) -> None:
        self._by_hash: dict[int, list[frozenset[int]]] = {}

    def add(self, body: str) -> bool:
        """Whether the body is new."""
        words = _WORD.findall(body.lower())
        count = max(1, len(words) - 4)
        shingles = frozenset(zlib.crc32(" ".join(words[i : i + 5]).encode()) for i in range(count))
        sketch = sorted(shingles)[:_SKETCH]
        for key in sketch:
            for other in self._by_hash.get(key, ()):
                if len(shingles & other) >= ALIAS_OVERLAP * len(shingles | other):
                    return False
        for key in sketch:
            self._by_hash.setdefault(key, []).append(shingles)
        return True


def _is_fair(query: str) -> bool:
    letters = sum(character.isalpha() or character == " " for character in query)
    return (
        20 <= len(query) <= 200
        and len(_WORD.findall(query)) >= 4
        and letters >= 0.8 * len(query)
        and not _BOILERPLATE.search(query.lower())
    )


def _letters(text: str) -> str:
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def _lot(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
