"""Near-duplicates: what counts as the same, against a brute force over all pairs."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from cluster.schemas import QUERIES
from cluster.tables.table import Table
from generation import distinct
from generation.near_duplicates import jaccard, near_duplicates, normalised
from tests.tables import write_table

SUBJECTS = ["honey", "pears", "sailing ships", "interest rates", "ankle sprains", "concrete", "parcel labels", "swifts"]
OPENINGS = ["how long does it take until", "what is the best way to store", "why do people worry about", "history of"]
ENDINGS = ["in a cold cellar", "in the nineteenth century", "before the winter comes", "without a written contract", ""]


def found(texts: list[str], folder: Path, threshold: float = 0.85, batch: int = 1000) -> list[bool]:
    folder.mkdir()
    batches = (texts[start : start + batch] for start in range(0, len(texts), batch))
    return near_duplicates(batches, threshold, folder).tolist()


def varied(count: int, seed: int) -> list[str]:
    """Questions of a few patterns, many of them with a slip of a letter or a word more: pairs of every similarity."""
    dice = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text = " ".join(
            [dice.choice(OPENINGS), dice.choice(SUBJECTS), "and", dice.choice(SUBJECTS), dice.choice(ENDINGS)]
        )
        if texts and dice.random() < 0.5:
            text = dice.choice(texts)
            at = dice.randrange(len(text))
            text = text[:at] + dice.choice(["x", "s", " really ", ""]) + text[at + dice.randrange(2) :]
        texts.append(text)
    return texts


def ngrams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[start : start + 4] for start in range(len(padded) - 3)}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is honey?", "what  is honey ?"),
        ("What is honey?", "What is honey"),
        ("“What is honey?”", "what is ｈｏｎｅｙ"),
        (
            "where can i buy a large jar of dark forest honey online",
            "where can i buy a large jar of dark forest honey, online?",
        ),
        (
            "where can i buy a large jar of dark forest honey online",
            "where can i buy a large jar of dark forests honey online",
        ),
        ("蜂蜜可以保存多久?", "蜂蜜可以保存多久"),
        ("كم سنة يبقى العسل صالحا؟", "كم سنة يبقى العسل صالحا"),
    ],
)
def test_of_two_texts_that_say_the_same_the_first_stays(first: str, second: str, tmp_path: Path) -> None:
    assert found([first, "an altogether different thing", second], tmp_path / "a") == [False, False, True]
    assert found([second, first], tmp_path / "b") == [False, True]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("what is C++", "what is C#"),
        ("largest dose of ibuprofen for adults of 50 kg", "largest dose of ibuprofen for adults of 55 kg"),
        ("may a tenant keep a dog in a flat with a permit", "may a tenant not keep a dog in a flat with a permit"),
        ("effect of aspirin on cancer", "effect of cancer on aspirin"),
        ("price of 1.5 metres", "price of 15 metres"),
        ("honey", "money"),
        ("a", "b"),
    ],
)  # fmt: skip
def test_texts_that_mean_something_else_both_stay(first: str, second: str, tmp_path: Path) -> None:
    assert found([first, second], tmp_path / "a") == [False, False]


def test_the_index_is_that_of_character_4_grams() -> None:
    one, other = normalised("Where do swifts sleep?"), normalised("where do swift birds sleep")
    assert jaccard(one, other) == len(ngrams(one) & ngrams(other)) / len(ngrams(one) | ngrams(other))


@pytest.mark.parametrize(("threshold", "overlooked"), [(0.75, 0.1), (0.85, 0.03), (0.9, 0.02)])
def test_what_goes_is_near_one_that_stays_and_little_is_overlooked(
    threshold: float, overlooked: float, tmp_path: Path
) -> None:
    texts = varied(300, seed=3)
    dropped = np.array(found(texts, tmp_path / "a", threshold))
    sets = [ngrams(normalised(text)) for text in texts]
    near = np.zeros((len(texts), len(texts)), dtype=bool)  # brute force: to an earlier text
    for later in range(len(texts)):
        for earlier in range(later):
            shared = len(sets[later] & sets[earlier])
            near[later, earlier] = shared >= threshold * (len(sets[later]) + len(sets[earlier]) - shared)
    near &= ~dropped[None, :]
    assert dropped.sum() > 40
    assert near[dropped].any(axis=1).all(), "a text went that is near none of those that stay"
    assert near[~dropped].any(axis=1).sum() <= overlooked * dropped.sum()


def test_batches_and_repetition_do_not_change_the_answer(tmp_path: Path) -> None:
    texts = varied(300, seed=4)
    whole = found(texts, tmp_path / "a")
    assert found(texts, tmp_path / "b", batch=7) == whole
    assert found(texts, tmp_path / "c", batch=1) == whole


def test_at_a_threshold_of_one_only_equal_texts_go(tmp_path: Path) -> None:
    texts = ["what is honey made of", "What is honey made of?", "what is honey made off"]
    assert found(texts, tmp_path / "a", threshold=1.0) == [False, True, False]


def test_no_texts_and_texts_without_words_are_no_error(tmp_path: Path) -> None:
    assert found([], tmp_path / "a") == []
    assert found(["", "?", "a"], tmp_path / "b") == [False, True, False]


def written(workdir: Path, texts: list[str]) -> Table:
    rows = [
        {"query_id": f"p{number}:claim:0", "source_id": f"p{number}", "query_type": "claim", "text": text, "sample": 0}
        for number, text in enumerate(texts)
    ]
    return write_table(str(workdir), QUERIES, QUERIES.path, rows)


def test_the_same_query_for_two_sources_stays_once_in_a_run(run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run()
    texts = ["What is honey?", "where do bees live", "what  is honey ?", "how is wax made", "Where do bees live?"]
    table = written(Path(made.storage.url.removeprefix("file://")), texts)
    monkeypatch.setattr(distinct, "QUERIES_PER_SHARD", 2)

    kept = distinct.build(made, 0.85, [table])

    assert kept.read(["query_id"])["query_id"].to_pylist() == ["p0:claim:0", "p1:claim:0", "p3:claim:0"]
    assert [(commit.units, commit.rows, commit.drops.get("near_duplicate", 0)) for commit in kept.commits()] == [
        (2, 2, 0), (2, 1, 1), (1, 0, 1),
    ]  # fmt: skip
