"""The corpus of the demo: bodies of docstrings are the passages, and their summaries are queries for evaluation.

A passage has an empty title, because the dotted name would answer the query: `numpy.linalg.norm` names the norm.
Aliases, which are the same text under several names, count once.
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
    """Packages in a `pydocs://` address; without any, the standard library, NumPy and SciPy.

    Raises:
        InputError: a name is empty or occurs twice.
    """
    names = path.removeprefix(PREFIX).strip("/ ")
    packages = tuple(name.strip() for name in names.split(",")) if names else DEFAULT_PACKAGES
    if not all(packages) or len(set(packages)) < len(packages):
        raise InputError(
            f"{path}: expected package names separated by commas, each once, such as pydocs://stdlib,numpy"
        )
    return packages


@functools.lru_cache(maxsize=4)
def collect(packages: tuple[str, ...]) -> tuple[tuple[SourceFile, tuple[Docstring, ...]], ...]:
    """Docstrings of every file of the packages, without aliases, in a fixed order.

    Raises:
        InputError: a package is not installed.
    """
    files = [file for package in packages for file in source_files(package)]
    bodies = _DistinctBodies()
    return tuple((file, tuple(doc for doc in file_docstrings(file) if bodies.add(doc.body))) for file in files)


def judged(packages: tuple[str, ...]) -> list[tuple[Docstring, str]]:
    """Docstrings whose summary is used as a query, with the query.

    A summary is left out if it has under four words or 20 characters, is boilerplate, belongs to several docstrings, or
    is part of its own passage.
    """
    docs = [doc for _, of_file in collect(packages) for doc in of_file]
    shared = Counter(_letters(doc.summary) for doc in docs)
    pairs = [(doc, query_of(doc.summary)) for doc in docs if shared[_letters(doc.summary)] == 1]
    return [(doc, query) for doc, query in pairs if _is_query(query) and _letters(query) not in _letters(doc.body)]


def query_of(summary: str) -> str:
    """A summary as a query: without markup and without the final full stop."""
    return " ".join(_MARKUP.sub("", unicodedata.normalize("NFKC", summary)).split()).rstrip(". ")


def write_judged(packages: tuple[str, ...] | str, folder: Path, max_queries: int, seed: int) -> int:
    """Writes a BEIR folder: corpus.jsonl, queries.jsonl, and qrels/test.tsv that judge each query's own passage.

    Args:
        packages: package names, or a `pydocs://` address.
        folder: the BEIR folder; it is created if it does not exist.
        max_queries: most queries; the sample depends only on the seed and the names.
        seed: seed of the sample.

    Returns:
        Number of queries written.

    Raises:
        InputError: a package is not installed, or no summary can be a query.
    """
    names = parse_packages(packages) if isinstance(packages, str) else tuple(packages)
    pairs = judged(names)
    if not pairs:
        raise InputError(
            f"{PREFIX}{','.join(names)}: no docstring has a summary that can be a query. "
            f"Name packages with more documentation, such as {PREFIX}stdlib,numpy,scipy."
        )
    chosen = {doc.name for doc, _ in sorted(pairs, key=lambda pair: _sampling_key(seed, pair[0].name))[:max_queries]}
    judged_pairs = [(doc, query) for doc, query in pairs if doc.name in chosen]
    docs = [doc for _, of_file in collect(names) for doc in of_file]
    passages = [{"_id": doc.name, "title": "", "text": doc.body} for doc in docs]
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write_lines(folder / "corpus.jsonl", [json.dumps(passage, ensure_ascii=False) for passage in passages])
    queries = [{"_id": f"summary:{doc.name}", "text": query} for doc, query in judged_pairs]
    _write_lines(folder / "queries.jsonl", [json.dumps(query, ensure_ascii=False) for query in queries])
    lines = [f"{query['_id']}\t{doc.name}\t1" for query, (doc, _) in zip(queries, judged_pairs, strict=True)]
    _write_lines(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *lines])
    return len(judged_pairs)


class _DistinctBodies:
    """Bodies that differ from each other: a body is refused if it shares most of its word shingles with an earlier one.

    Two bodies are compared if they share one of their four smallest shingle hashes (a bottom-k sketch, Broder 1997).
    The overlap of their shingles is then computed exactly.
    """

    def __init__(self) -> None:
        self._by_hash: dict[int, list[frozenset[int]]] = {}

    def add(self, body: str) -> bool:
        """Adds a body; returns whether it differs from all earlier ones."""
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


def _is_query(query: str) -> bool:
    """Whether a summary has the length and the words of a query."""
    letters = sum(character.isalpha() or character == " " for character in query)
    return (
        20 <= len(query) <= 200
        and len(_WORD.findall(query)) >= 4
        and letters >= 0.8 * len(query)
        and not _BOILERPLATE.search(query.lower())
    )


def _letters(text: str) -> str:
    """The words of a text in lower case, without digits and punctuation."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).lower()))


def _sampling_key(seed: int, name: str) -> bytes:
    """A pseudo-random key: the names with the smallest keys are the sample."""
    return hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest()


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
