"""BM25 against its formula, its search, and an index that processes share."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
import Stemmer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from distill.retrieval import tokenizers
from distill.retrieval.bm25 import Bm25Index, text_settings
from distill.retrieval.bm25_build import K1, B
from distill.retrieval.tokenizers import TextSettings, character_ngrams
from distill.settings.retrieval import Bm25Settings, RetrieverSettings
from distill.settings.teachers import TeacherSettings
from tests.corpus import ASPECTS, PLACES, QUERIES

TEXTS = [template.format(*place) for place in PLACES for template in ASPECTS]


def textbook(texts: list[str], query: str) -> np.ndarray:
    """(passages,) scores of Lucene's BM25, term by term from its formula; stop words are kept."""
    stem = Stemmer.Stemmer("english").stemWord

    def tokens(text: str) -> list[str]:
        return [stem(word) for word in re.findall(r"\b\w\w+\b", text.lower())]

    passages = [tokens(text) for text in texts]
    mean = sum(map(len, passages)) / len(passages)
    scores = np.zeros(len(texts))
    for term in tokens(query):
        frequency = sum(term in passage for passage in passages)
        weight = math.log(1 + (len(texts) - frequency + 0.5) / (frequency + 0.5))
        for number, passage in enumerate(passages):
            count = passage.count(term)
            scores[number] += weight * count / (count + K1 * (1 - B + B * len(passage) / mean))
    return scores


@pytest.fixture(scope="module")
def index() -> Bm25Index:
    return Bm25Index([TEXTS[:30], TEXTS[30:]], stop_words=False)


def test_scores_equal_the_textbook_formula(index: Bm25Index):
    for place in PLACES[:4]:
        for template in QUERIES:
            query = template.format(*place)
            expected = textbook(TEXTS, query)
            np.testing.assert_allclose(index.score(query, np.arange(len(TEXTS))), expected, rtol=1e-4, atol=1e-5)


def test_the_scores_of_some_passages_equal_those_of_the_whole_corpus_to_the_bit(index: Bm25Index, tmp_path: Path):
    saved = Bm25Index([TEXTS], stop_words=False, folder=tmp_path)
    generator = np.random.default_rng(3)
    for chosen in (index, saved, Bm25Index.load(tmp_path, stop_words=False)):
        for query in ["harbour harbour traders", "zyzzyva", "", *(QUERIES[0].format(*place) for place in PLACES[:4])]:
            whole = index.score(query, np.arange(len(TEXTS)))
            rows = generator.permutation(len(TEXTS))[:17]
            np.testing.assert_array_equal(chosen.score(query, rows), whole[rows])
    assert index.score("harbour", np.array([5, 5, 2])).shape == (3,)


def test_scores_equal_those_of_bm25s(index: Bm25Index):
    import bm25s
    from bm25s.tokenization import Tokenized

    tokenizer = TextSettings().tokenizer(stop_words=False)
    ids = tokenizer.tokenize(TEXTS, return_as="ids", allow_empty=False, show_progress=False)
    other = bm25s.BM25(k1=K1, b=B, method="lucene")
    other.index(Tokenized(ids=ids, vocab=tokenizer.get_vocab_dict()), show_progress=False)
    for query in ("harbour harbour traders", *(QUERIES[0].format(*place) for place in PLACES)):
        expected = other.get_scores_from_ids(*index.token_ids([query]))
        np.testing.assert_allclose(index.score(query, np.arange(len(TEXTS))), expected, rtol=1e-5)


def test_search_returns_the_best_of_all_scores_with_ties_by_row(index: Bm25Index):
    query = QUERIES[0].format(*PLACES[3])
    scores = index.score(query, np.arange(len(TEXTS)))
    hits = index.search([query], 15)
    expected = np.lexsort((np.arange(len(TEXTS)), -scores))[:15]
    np.testing.assert_array_equal(hits.rows[0], expected)
    np.testing.assert_array_equal(hits.scores[0], scores[expected])


def test_copies_of_a_passage_rank_by_row_at_any_depth():
    copies = ["old maps of the harbour", "a silver mine"] * 60
    index = Bm25Index([copies[:7], copies[7:]])
    for depth in (1, 10, 59, 60, 61):
        rows = index.search(["harbour maps"], depth).rows[0]
        assert rows[: min(depth, 60)].tolist() == list(range(0, 120, 2))[:depth]
        assert (rows[60:] == -1).all()


def test_a_word_that_no_passage_has_gives_no_hit(index: Bm25Index):
    hits = index.search(["zyzzyva", "", "?!"], 5)
    assert (hits.rows == -1).all()
    assert index.score("zyzzyva", np.arange(3)).tolist() == [0, 0, 0]


def test_words_are_stemmed_and_a_repeated_word_counts_twice(index: Bm25Index):
    rows = np.arange(len(TEXTS))
    np.testing.assert_array_equal(index.score("traders", rows), index.score("trader", rows))
    np.testing.assert_allclose(index.score("harbour harbour", rows), 2 * index.score("harbour", rows), rtol=1e-6)


def test_stop_words_score_nothing_when_left_out():
    index = Bm25Index([["the cat of the house", "a dog in the house"]])
    assert index.score("the of in", np.arange(2)).tolist() == [0, 0]
    assert index.search(["the dog"], 2).rows.tolist() == [[1, -1]]


@pytest.mark.parametrize("texts", [[], [[]], [["", "?"]], [["", "one word"]]])
def test_empty_passages_and_an_empty_corpus_can_be_searched(texts: list[list[str]]):
    hits = Bm25Index(texts).search(["word"], 2)
    assert hits.rows[0].tolist() in ([-1, -1], [1, -1])


SEARCHES = [template.format(*place) for place in PLACES[:6] for template in QUERIES] + [
    "zyzzyva",
    "",
    "traders harbour",
]


@pytest.mark.parametrize("texts", [[TEXTS], [[]], [["", "?"]], [["", "one trader"]]])
def test_a_saved_index_finds_what_the_built_one_finds(texts: list[list[str]], tmp_path: Path):
    built = Bm25Index(texts, folder=tmp_path)
    hits, expected = Bm25Index.load(tmp_path).search(SEARCHES, 9), built.search(SEARCHES, 9)
    np.testing.assert_array_equal(hits.rows, expected.rows)
    np.testing.assert_array_equal(hits.scores, expected.scores)


def test_an_index_is_built_once_or_by_every_caller_if_no_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    builds = []

    def texts() -> list[list[str]]:
        builds.append(1)
        return [TEXTS]

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scores = [Bm25Index.shared("corpus", texts).search(SEARCHES, 9).scores for _ in range(3)]
    assert len(builds) == 1
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    scores += [Bm25Index.shared("corpus", texts).search(SEARCHES, 9).scores for _ in range(2)]
    assert len(builds) == 3
    for later in scores[1:]:
        np.testing.assert_array_equal(later, scores[0])


def test_german_words_match_in_other_inflections():
    texts = ["Die Häuser der Händler standen am Hafen.", "Ein Wald ohne Wege.", "Der Preis der Heringe fiel."]
    german = Bm25Index([texts], reads=TextSettings("german"))
    assert german.search(["Haus eines Händlers"], 3).rows.tolist() == [[0, -1, -1]]
    assert german.search(["Hering"], 3).rows.tolist() == [[2, -1, -1]]
    assert german.search(["die der ein ohne"], 3).rows.tolist() == [[-1, -1, -1]], "stop words"
    assert Bm25Index([texts]).search(["ohne"], 3).rows.tolist() == [[1, -1, -1]], "no stop word of English"


def test_vowel_signs_do_not_cut_words_of_hindi():
    hindi = Bm25Index([["किताब पढ़ना", "कमल"]], reads=TextSettings("hindi"))
    assert hindi.search(["किताबें"], 2).rows.tolist() == [[0, -1]]
    assert hindi.search(["कबूतर"], 2).rows.tolist() == [[-1, -1]], "another word with the same consonant"


CHINESE = ["东京是日本的首都。", "北京是中国的首都，人口很多。", "长江是亚洲最长的河流。", "GPU 很快"]


def by_scikit_learn(texts: list[str], query: str) -> np.ndarray:
    """(passages,) scores of Lucene's BM25 over character n-grams, counted by scikit-learn."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(tokenizer=_ngrams_of_runs, token_pattern=None)
    counts = vectorizer.fit_transform(texts).toarray().astype(float)
    asked = vectorizer.transform([query]).toarray()[0]
    lengths, present = counts.sum(1, keepdims=True), (counts > 0).sum(0)
    idf = np.log(1 + (len(texts) - present + 0.5) / (present + 0.5))
    return (counts / (counts + K1 * (1 - B + B * lengths / lengths.mean())) * idf) @ asked


def _ngrams_of_runs(text: str) -> list[str]:
    return [run[a : a + n] for run in re.split(r"[。，\s]+", text) for n in (2, 3) for a in range(len(run) - n + 1)]


def test_character_ngrams_find_a_chinese_passage_with_the_textbook_score():
    index = Bm25Index([CHINESE], reads=TextSettings(ngrams=True))
    for query, best in (("中国的首都在哪里", 1), ("日本首都", 0), ("最长的河", 2), ("gpu", 3)):
        assert index.search([query], 1).rows.tolist() == [[best]]
        np.testing.assert_allclose(index.score(query, np.arange(4)), by_scikit_learn(CHINESE, query), rtol=1e-5)
    assert (Bm25Index([CHINESE]).search(["中国的首都在哪里"], 1).rows == -1).all(), "read as words, nothing matches"


def test_thai_words_keep_their_vowel_signs_in_ngrams():
    assert character_ngrams("ที่ ก") == ["ที", "ี่", "ที่", "ก"]


def test_indexes_of_two_languages_are_not_mixed_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for reads in (TextSettings(), TextSettings("german"), TextSettings(ngrams=True)):
        built = Bm25Index([TEXTS], reads=reads)
        for _ in range(2):
            shared = Bm25Index.shared("corpus", lambda: [TEXTS], reads)
            np.testing.assert_array_equal(shared.search(SEARCHES, 9).scores, built.search(SEARCHES, 9).scores)


@pytest.mark.parametrize(
    ("settings", "other", "message"),
    [
        (RetrieverSettings, "dense", "`language` needs kind: bm25"),
        (TeacherSettings, "bi_encoder", "`language` is a field of kind bm25, and this teacher is bi_encoder"),
    ],
)
def test_a_language_without_stemmer_is_refused_with_those_that_exist(
    settings: type[Bm25Settings], other: str, message: str
):
    with pytest.raises(ValidationError, match=r"'chinese' has no stemmer; there are none, arabic, .*german.*: ngrams"):
        settings(kind="bm25", language="chinese")
    with pytest.raises(ValidationError, match="leave out `language`"):
        settings(kind="bm25", language="german", tokenizer="ngrams")
    with pytest.raises(ValidationError, match=message):
        settings(kind=other, language="german")
    assert settings(kind="bm25", language="english", tokenizer="words").reads() == {}


INFLECTED = {
    "de": ("Die Häuser der Gärtner stehen am Fluss.", "haus gärtnern flüssen", "Kein Wort davon."),
    "fr": ("Les jardiniers ajoutaient des feuilles sèches.", "jardinier ajouter feuille", "Rien de tel."),
    "ru": ("Садовники добавляли сухие листья.", "садовник добавлять листьям", "Ничего такого."),
    "ar": ("أضاف المزارعون الأوراق إلى الحديقة", "مزارع ورق حديقة", "لا شيء من ذلك"),
    "hi": ("माली बगीचों में पत्तियाँ डालते थे", "बगीचा पत्ती डालना", "इनमें से कुछ नहीं"),
}


@pytest.mark.parametrize("code", INFLECTED)
def test_a_language_s_stemmer_finds_other_forms_of_a_word(code: str):
    passage, query, other = INFLECTED[code]
    own, english = (
        Bm25Index([[other, passage]], reads=text_settings(settings))
        for settings in (RetrieverSettings(kind="bm25").in_language(code), RetrieverSettings(kind="bm25"))
    )
    assert own.search([query], 1).rows[0, 0] == 1
    assert own.search([query], 1).scores[0, 0] > english.search([query], 1).scores[0, 0]


@pytest.mark.parametrize(
    ("code", "reads"),
    [
        ("en", {}), ("ja", {"tokenizer": "ngrams"}), ("zh", {"tokenizer": "ngrams"}), ("th", {"tokenizer": "ngrams"}),
        ("ko", {"tokenizer": "ngrams"}), ("hi", {"language": "hindi"}), ("vi", {"language": "none"}),
    ],
)  # fmt: skip
def test_what_the_recipe_leaves_open_follows_the_language_of_the_corpus(code: str, reads: dict[str, str]):
    assert RetrieverSettings(kind="bm25").in_language(code).reads() == reads
    for named in ({"language": "english"}, {"language": "french"}, {"tokenizer": "words"}):
        settings = RetrieverSettings(kind="bm25", **named)
        assert settings.in_language(code) == settings


def test_words_without_stemmer_are_words_as_they_are():
    index = Bm25Index([["Cây sồi già", "các con sông"]], reads=TextSettings("none"))
    assert index.search(["cây sồi"], 2).rows.tolist() == [[0, -1]]


@given(text=st.text(st.characters(max_codepoint=127)))
def test_words_of_ascii_are_those_of_any_text(text: str):
    assert tokenizers.words(text) == tokenizers._words().findall(text)
    assert tokenizers.words(f"{text} é") == tokenizers._words().findall(text)
