"""Which language a corpus is in: passages at equal distances are each told by their letters, and the most common wins.

One passage may be a list of names. So a language counts only where at least half of the passages are in it; otherwise
texts are read as English, as before there were other rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.tables.table import Table
from generation.language.names import AUTO, ENGLISH, known_codes, language_code, language_name

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SAMPLE = 200  # passages
CHARACTERS = 1000  # of each
LEAST_LETTERS = 20  # of a text that says something about its language
FILES = 20  # of the table, so that a large corpus is not read as a whole


@dataclass(frozen=True)
class CorpusLanguage:
    """The language that texts are read in.

    Attributes:
        code: such as `de`.
        why: how it was found, for people; empty where the recipe names it.
    """

    code: str
    why: str = ""


def corpus_language(named: str, passages: Table) -> CorpusLanguage:
    """The language that a recipe names, or that most passages are in.

    Args:
        named: a code, a name or `auto`.
        passages: PASSAGES.
    """
    if named != AUTO:
        return CorpusLanguage(str(language_code(named)))
    return detect(_sample(passages))


def detect(texts: Iterable[str]) -> CorpusLanguage:
    """The language of most of the texts; English where none has half of them."""
    counts = Counter(identify(text) for text in texts if sum(map(str.isalpha, text)) >= LEAST_LETTERS)
    looked_at = counts.total()
    if not looked_at:
        return CorpusLanguage(ENGLISH, "no passage has enough letters to tell")
    code, count = counts.most_common(1)[0]
    if 2 * count < looked_at:
        found = ", ".join(f"{language_name(code)} {count / looked_at:.0%}" for code, count in counts.most_common(3))
        return CorpusLanguage(ENGLISH, f"no language has half of {looked_at} passages: {found}")
    return CorpusLanguage(code, f"{count / looked_at:.0%} of {looked_at} passages")


def in_words(language: CorpusLanguage) -> str:
    """One line for the terminal."""
    return f"language of the corpus: {language_name(language.code)} ({language.why}); corpus.language sets another"


def _sample(passages: Table) -> list[str]:
    """About `SAMPLE` passages at equal distances, from at most `FILES` files."""
    files = passages.files()
    step = max(1, len(files) // FILES)
    chosen = files[::step]
    each = -(-SAMPLE // max(1, len(chosen)))
    texts: list[str] = []
    for file, rows in chosen:
        wanted = pa.array(range(0, rows, max(1, rows // each))[:each], pa.int64())
        texts += passages.read_file(file, ["text"]).column("text").take(wanted).to_pylist()
    return texts


def identify(text: str) -> str:
    """Code of the language that a text is in, as far as its letters tell."""
    code, _ = _identifier().classify(text[:CHARACTERS])
    return str(code)


@cache
def _identifier() -> LanguageIdentifier:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages([code for code in known_codes() if code in identifier.labels])
    return identifier
