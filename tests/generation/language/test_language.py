"""Languages: a corpus is told by its letters, and sentences, words and queries are those of its language."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError

from cluster.tables.storage import Storage
from generation import queries
from generation.cleaning.loops import is_loop
from generation.cleaning.overlap import is_copied
from generation.cleaning.words import contains, longest_run, stems, words
from generation.engines.base import Request
from generation.engines.extractive import ExtractiveEngine, Frequencies, sentences
from generation.language.detect import corpus_language, detect, in_words
from generation.language.names import language_code
from generation.language.segmentation import pieces
from generation.language.sentences import split_sentences
from generation.settings import QUERY_TYPES, CorpusSettings, GenerationSettings
from tests.generation.language.texts import TEXTS
from tests.generation.sources.tables import write_passages


@pytest.mark.parametrize("code", TEXTS)
def test_the_language_of_each_text_is_found(code):
    found = detect([TEXTS[code]] * 3)
    assert (found.code, found.why) == (code, "100% of 3 passages")


def test_names_and_a_few_other_texts_do_not_change_the_language_of_a_corpus():
    assert detect([TEXTS["ja"]] * 6 + [TEXTS["en"]] * 3 + ["X-200"] * 20).code == "ja"
    mixed = detect([TEXTS["ja"], TEXTS["de"], TEXTS["fr"], TEXTS["ru"]])
    assert mixed.code == "en"
    assert mixed.why.startswith("no language has half of 4 passages: ")
    assert detect(["12", "--"]).code == "en"


def test_a_corpus_is_in_the_language_of_its_passages_or_in_the_one_that_the_recipe_names(tmp_path):
    table = write_passages(str(tmp_path), 400, texts=[TEXTS["th"]] * 400)
    found = corpus_language("auto", table)
    assert in_words(found) == ("language of the corpus: Thai (100% of 200 passages); corpus.language sets another")
    assert corpus_language("pt-BR", table).code == "pt"
    assert corpus_language("German", table).code == language_code("de-AT") == "de"


def test_a_language_that_is_not_known_is_refused_with_those_that_are():
    assert CorpusSettings(path="x").language == "auto"
    with pytest.raises(ValidationError, match=r"'klingon' .* is no language known here; expected auto or ar, .*zh"):
        CorpusSettings(path="x", language="klingon")


@pytest.mark.parametrize("code", TEXTS)
def test_four_sentences_are_four_sentences(code):
    assert len(split_sentences(TEXTS[code], code)) == 4
    assert "".join(split_sentences(TEXTS[code], code)).replace(" ", "") == TEXTS[code].replace(" ", "")


def test_a_wrapped_line_of_chinese_is_no_space():
    wrapped = "堆肥闻起来\n像泥土。它已经\n成熟了。\n\n第二段"
    assert split_sentences(wrapped, "zh") == [
        "堆肥闻起来像泥土。",
        "它已经成熟了。",
        "第二段",
    ]


@pytest.mark.parametrize("code", TEXTS)
def test_extraction_writes_every_type_in_every_language_and_never_the_whole_passage(code):
    text = TEXTS[code]
    engine = ExtractiveEngine(GenerationSettings(), Frequencies.of(list(TEXTS.values())), code)
    assert len(sentences(text, code)) >= 3
    asked = [Request(f"p:{kind}:0", "p", "", text, kind, 0) for kind in QUERY_TYPES]
    for answer, request in zip(asyncio.run(engine.answer(asked)), asked, strict=True):
        assert answer.text, request.query_type
        assert len(answer.text) < len(text) / 2, request.query_type
        if request.query_type in ("claim", "question", "title"):
            assert answer.text in text


def test_a_stop_word_is_no_keyword():
    engine = ExtractiveEngine(GenerationSettings(), Frequencies.of(list(TEXTS.values())), "de")
    asked = [Request(f"p:web_search:{n}", "p", "", TEXTS["de"], "web_search", n) for n in range(20)]
    written = {word for answer in asyncio.run(engine.answer(asked)) for word in answer.text.split()}
    assert "stickstoff" in written
    assert not written & {"der", "ein", "zu", "viel", "nach", "oder"}


@pytest.mark.parametrize("code", TEXTS)
def test_pieces_of_a_text_are_the_text(code):
    assert "".join(pieces(TEXTS[code])) == TEXTS[code]
    assert 15 < len(pieces(TEXTS[code])) < 60


def test_words_of_hindi_keep_their_vowels_and_words_of_chinese_are_no_whole_sentences():
    assert words("हिन्दी की किताब") == ("हिन्दी", "की", "किताब")
    assert max(map(len, words(TEXTS["zh"]))) <= 4
    assert words("PDFファイルを開く") == ("pdf", "ファイルを", "開く")


def test_a_part_of_a_passage_is_found_however_the_text_around_it_is_cut():
    for code in ("zh", "ja", "th"):
        text = TEXTS[code]
        part = text[3:24]
        assert contains(text, part), code
        assert not contains(text, part + TEXTS["ko"][:3]), code
        assert longest_run(words(part), text) == len(words(part))
        assert stems(part) <= stems(text)
    assert is_copied(TEXTS["ja"][:40], TEXTS["ja"])
    assert not is_copied("堆肥はいつ熟しますか？", TEXTS["ja"])


@pytest.mark.parametrize(
    "query",
    ["堆肥在什么时候成熟，怎样知道？", "堆肥はいつ熟しますか、どうすれば分かりますか？", "ปุ๋ยหมักสุกเมื่อไรและดูอย่างไร"],
)
def test_a_plain_question_is_no_loop(query):
    assert not is_loop(query, TEXTS["en"])
    assert is_loop(query * 5, TEXTS["en"])


def test_queries_of_another_language_are_another_table(tmp_path):
    passages = write_passages(str(tmp_path), 3, texts=[TEXTS["ja"]] * 3)
    storage = Storage(str(tmp_path))
    made = [
        queries.stage(storage, GenerationSettings(**engine), passages, queries.WHOLE, None, None, language).fingerprint
        for language in ("en", "ja")
        for engine in ({"engine": "extractive"}, {"engine": "vllm", "model": "m"})
    ]
    assert made[0] != made[2]
    assert made[1] == made[3]  # a language model is told by generation.language
