"""Queries drawn from the passage itself, without a language model: what a laptop with no GPU and no network can do.

Sentences stand in for questions and claims, as in the inverse cloze task (Lee et al., arXiv 1906.00300); rare terms of
the passage, weighted by tf-idf, stand in for what people type into a search box, as in keyphrase-based query synthesis.
Such a query quotes its source, so the lists leave the source out by default (`lists.leave_out_source`).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cluster.tables.storage import Storage
from cluster.tables.table import Table
from generation.engines.base import Answer, Request
from generation.settings import GenerationSettings

MIN_WORDS, MAX_WORDS = 4, 40  # a sentence outside of this is a heading, a list or a table
_WORD = re.compile(r"[^\W\d_][\w'-]*")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^\W\d_]|[`*\"'(])|\n\s*\n")
_NO_PROSE = re.compile(r">>>|\.\.\.\s|-{3,}|={3,}|\.\. |%\(|::|[{}|\\]")
_CLAUSE_END = re.compile(r"[,;:(]|\s(?:which|that|when|if|because|where|while|so)\s")
_STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "each",
        "either",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "here",
        "his",
        "how",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "may",
        "might",
        "more",
        "most",
        "must",
        "no",
        "nor",
        "not",
        "of",
        "on",
        "one",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "up",
        "use",
        "used",
        "uses",
        "using",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)


@dataclass(frozen=True)
class Frequencies:
    """In how many of `passages` passages each word occurs."""

    documents: Counter[str]
    passages: int

    @classmethod
    def of(cls, texts: Iterator[str] | list[str]) -> Frequencies:
        """Counts words over texts."""
        documents: Counter[str] = Counter()
        passages = 0
        for text in texts:
            documents.update(set(words(text)))
            passages += 1
        return cls(documents, passages)

    def rarity(self, word: str) -> float:
        """Inverse document frequency, ≥ 0: ln((passages + 1) / (documents + 0.5))."""
        return max(0.0, math.log((self.passages + 1) / (self.documents[word] + 0.5)))


def corpus_frequencies(storage: Storage, passages_path: str, sample: int = 20_000) -> Frequencies:
    """Word frequencies of the passages table, from every n-th passage so that about `sample` are read."""
    table = Table.open(storage, passages_path)
    step = max(1, table.num_rows // sample)

    def texts() -> Iterator[str]:
        first = 0  # of the batch that is to be read
        for batch in table.batches(["text"]):
            chosen = np.arange(-first % step, len(batch), step)
            yield from batch["text"].take(pa.array(chosen)).to_pylist()
            first += len(batch)

    return Frequencies.of(texts())


def words(text: str) -> list[str]:
    """Lower-case words in order; numbers and punctuation are none."""
    return [word.lower() for word in _WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """Sentences of prose in order: no code, no tables, no headings, markup taken off."""
    found = []
    for part in _SENTENCE_END.split(text):
        sentence = re.sub(r"[`*]+", "", " ".join(part.split()))
        if _NO_PROSE.search(part) or not MIN_WORDS <= len(words(sentence)) <= MAX_WORDS:
            continue
        if sum(letter.isalpha() or letter == " " for letter in sentence) >= 0.8 * len(sentence):
            found.append(sentence)
    return found


class ExtractiveEngine:
    """Writes queries by extraction. The same request gives the same query, whatever stands beside it.

    Args:
        settings: lengths and seed.
        frequencies: of the corpus that the passages come from.
    """

    def __init__(self, settings: GenerationSettings, frequencies: Frequencies) -> None:
        self.settings = settings
        self.frequencies = frequencies

    async def answer(self, requests: list[Request]) -> list[Answer]:
        """One answer per request, in order; `reason` says why a passage yields no query of a type."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        text = request.text[: self.settings.prompt_characters]
        key = f"{self.settings.seed}:{request.unit}".encode()
        random = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
        query = self._draw(request.query_type, request.title, text, random)
        if query is None:
            return Answer(request.unit, None, "nothing_to_extract", 0)
        return Answer(request.unit, query, None, 0)

    def _draw(self, query_type: str, title: str, text: str, random: np.random.Generator) -> str | None:
        prose = sentences(text)
        if query_type == "keywords":
            return self._keywords(f"{title} {text}", random)
        if query_type == "title" and title:
            return title
        if not prose:
            return None
        # What a passage is about stands at its beginning: the n-th sentence is drawn with weight 1/n.
        weights = 1 / np.arange(1, len(prose) + 1)
        sentence = prose[random.choice(len(prose), p=weights / weights.sum())]
        if query_type == "title":
            return " ".join(_CLAUSE_END.split(prose[0])[0].split()[:10])
        if query_type == "claim":
            return " ".join(sentence.split()[:25])
        if query_type == "question":
            spoken = sentence.split()
            start = int(random.integers(0, max(1, len(spoken) - 11)))
            return " ".join(spoken[start : start + 12])
        content = [word for word in dict.fromkeys(words(sentence)) if word not in _STOP_WORDS]
        if query_type == "search":
            rarest = set(sorted(content, key=lambda word: -self.frequencies.rarity(word))[:5])
            return " ".join(word for word in content if word in rarest) or None
        return " ".join(content[:12]) or None

    def _keywords(self, text: str, random: np.random.Generator) -> str | None:
        """Three to five of the ten terms with the highest tf-idf, (1 + ln tf) · idf, in random order."""
        counts = Counter(word for word in words(text) if word not in _STOP_WORDS and len(word) > 2)
        if len(counts) < 4:
            return None
        weight = {word: (1 + math.log(count)) * self.frequencies.rarity(word) for word, count in counts.items()}
        best = sorted(weight, key=lambda word: (-weight[word], word))[:10]
        return " ".join(random.choice(best, size=min(len(best), int(random.integers(3, 6))), replace=False))
