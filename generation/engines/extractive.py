"""Queries drawn from the passage itself, without a language model: what a laptop with no GPU and no network can do.

Sentences stand in for questions and claims, as in the inverse cloze task (Lee et al., arXiv 1906.00300); rare terms of
the passage, weighted by tf-idf, stand in for what people type into a search box, as in keyphrase-based query synthesis.
Such a query quotes its source, so the lists leave the source out by default (`lists.leave_out_source`).
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import regex

from cluster.tables.storage import Storage
from cluster.tables.table import Table
from generation.engines.base import Answer, Request
from generation.language.names import ENGLISH
from generation.language.segmentation import cut_runs, is_spaceless, pieces, term
from generation.language.sentences import split_sentences
from generation.language.stop_words import stop_words
from generation.settings import GenerationSettings

MIN_WORDS, MAX_WORDS = 4, 40  # a sentence outside of this is a heading, a list or a table
_WORD = regex.compile(r"[^\W\d_][\w'-]*")
_NO_PROSE = re.compile(r">>>|\.\.\.\s|-{3,}|={3,}|\.\. |%\(|::|[{}|\\]")
_CLAUSE_END = re.compile(r"[,;:(，、；：（،؛]|\s(?:which|that|when|if|because|where|while|so)\s")


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
    """Lower-case words in order; numbers and punctuation are none. Phrases of Japanese come without their endings."""
    found = (term(word) for word in _spoken(text))
    return [word.lower() for word in found if word]


def sentences(text: str, language: str = ENGLISH) -> list[str]:
    """Sentences of prose in order: no code, no tables, no headings, markup taken off."""
    found = []
    for part in split_sentences(text, language):
        sentence = re.sub(r"[`*]+", "", " ".join(part.split()))
        if _NO_PROSE.search(part) or not MIN_WORDS <= len(_spoken(sentence)) <= MAX_WORDS:
            continue
        if sum(map(_is_prose, sentence)) >= 0.8 * len(sentence):
            found.append(sentence)
    return found


def _spoken(text: str) -> list[str]:
    return cut_runs(_WORD.findall(text), text)


def _is_prose(letter: str) -> bool:
    """A letter, one of its marks (vowels of Hindi and Thai are such marks) or a space."""
    return letter.isalpha() or letter == " " or unicodedata.category(letter).startswith("M")


class ExtractiveEngine:
    """Writes queries by extraction. The same request gives the same query, whatever stands beside it.

    Args:
        settings: lengths and seed.
        frequencies: of the corpus that the passages come from.
        language: of the passages, a code; it says where sentences end, and which words are stop words.
    """

    def __init__(self, settings: GenerationSettings, frequencies: Frequencies, language: str = ENGLISH) -> None:
        self.settings = settings
        self.frequencies = frequencies
        self.language = language
        self._stop_words = stop_words(language)

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
        prose = sentences(text, self.language)
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
            return "".join(pieces(_CLAUSE_END.split(prose[0])[0])[:10]).strip()
        spoken = pieces(sentence)
        if query_type == "claim":
            return "".join(spoken[:25]).strip()
        if query_type == "question":
            start = int(random.integers(0, max(1, len(spoken) - 11)))
            return "".join(spoken[start : start + 12]).strip()
        content = [word for word in dict.fromkeys(words(sentence)) if word not in self._stop_words]
        if query_type == "search":
            rarest = set(sorted(content, key=lambda word: -self.frequencies.rarity(word))[:5])
            return " ".join(word for word in content if word in rarest) or None
        return " ".join(content[:12]) or None

    def _keywords(self, text: str, random: np.random.Generator) -> str | None:
        """Three to five of the ten terms with the highest tf-idf, (1 + ln tf) · idf, in random order."""
        counts = Counter(word for word in words(text) if word not in self._stop_words and _is_term(word))
        if len(counts) < 4:
            return None
        weight = {word: (1 + math.log(count)) * self.frequencies.rarity(word) for word, count in counts.items()}
        best = sorted(weight, key=lambda word: (-weight[word], word))[:10]
        return " ".join(random.choice(best, size=min(len(best), int(random.integers(3, 6))), replace=False))


def _is_term(word: str) -> bool:
    return len(word) > (1 if is_spaceless(word) else 2)
