"""Copies of a source: every pair against a plain Jaccard index over sets of joined words."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.schemas import PASSAGES
from cluster.tables.row_reader import RowReader
from distill.lists import duplicates
from distill.lists.duplicates import Copies, Words
from tests.tables import write_table


def plain_jaccard(first: str, second: str) -> float:
    one, two = (
        {" ".join(words[place : place + 3]) for place in range(len(words) - 2)}
        for words in (first.lower().split(), second.lower().split())
    )
    return len(one & two) / len(one | two) if one | two else 0.0


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Eight texts, and copies of each with zero to six words changed, cut or repeated."""
    generator = np.random.default_rng(2)
    words = [f"word{number}" for number in range(60)]
    found = []
    for _ in range(8):
        base = generator.choice(words, size=int(generator.integers(12, 50))).tolist()
        for changed in range(7):
            text = list(base)
            for place in generator.integers(0, len(text), changed).tolist():
                text[place] = str(generator.choice(words))
            found.append(" ".join(text[: len(text) - changed // 3]))
        found.append(" ".join(base + base))  # longer, of nearly the same 3-grams
    return [*found, "A  stone\nBridge", "a stone bridge", "two words", "two words", "", ""]


@pytest.mark.parametrize("similarity", [0.3, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("block", [7, 20_000])
def test_copies_are_those_of_a_plain_comparison_of_all_pairs(texts, similarity, block, tmp_path, monkeypatch):
    monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", block)
    rows = [{"passage_id": f"p{n}", "title": "", "text": text, "is_source": True} for n, text in enumerate(texts)]
    table = write_table(str(tmp_path), PASSAGES, "passages", rows)
    generator = np.random.default_rng(4)
    sources = [[], *([int(one) for one in generator.integers(0, len(texts), 1 + n % 2)] for n in range(150))]
    candidates = [generator.permutation(len(texts))[: int(generator.integers(1, len(texts)))] for _ in sources]
    found = Copies(RowReader(table, ["text"], 0), similarity).find(sources, candidates)
    count = 0
    for own, listed, copied in zip(sources, candidates, found, strict=True):
        for row, is_copy in zip(listed.tolist(), copied.tolist(), strict=True):
            same = any(
                texts[row].lower().split() == texts[source].lower().split() != []
                or plain_jaccard(texts[row], texts[source]) >= similarity
                for source in own
            )
            assert is_copy == (same and row not in own)
            count += is_copy
    assert count > 10


def test_case_and_spaces_do_not_matter_and_an_empty_text_copies_nothing():
    assert Words("A  stone\nBridge over").copies(Words("a STONE bridge over"), 1.0)
    assert Words("two words").copies(Words("Two words"), 0.9), "too short for 3-grams, and equal"
    assert not Words("two words").copies(Words("two others"), 0.1)
    assert not Words(" ").copies(Words(""), 0.1)
