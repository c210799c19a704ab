"""What is taken out of an answer, what stays, and under which name the rest is counted."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.cleaning.asked import Asked
from generation.cleaning.clean import clean

PASSAGE = (
    "Storing pears\nPears keep longest just above freezing, in air that is moist and poor in oxygen, away from apples. "
    "Ethylene, which ripe fruit gives off, makes them soft within a few days."
)
INSTRUCTION = (
    "Read the passage and list three to six key words or short terms by which it should be found. Separate them by "
    "spaces, "
    "put the most telling first, and write no sentence."
)
EXAMPLES = (
    ("Bread dough that rises overnight in the refrigerator tastes of more than dough that rises in a warm kitchen.",
     "Why does bread that was proofed overnight in the fridge have more flavour?"),
    ("Swifts sleep on the wing. Outside the breeding season they can stay in the air for ten months.",
     "How do swifts sleep if they do not land for months?"),
)  # fmt: skip
ASKED = Asked(PASSAGE, "question", "Question", INSTRUCTION, EXAMPLES)
KEYWORDS = dataclasses.replace(ASKED, query_type="keywords", label="Keywords")


def cut(asked: Asked = ASKED) -> Asked:
    return dataclasses.replace(asked, finish_reason="length")


def about(passage: str) -> Asked:
    return Asked(passage, "search", "Search")


def cleaned(written: str, asked: Asked = ASKED) -> tuple[str | None, str | None]:
    result = clean(written, asked)
    return result.text, result.reason


# --- taking the query out ---


@pytest.mark.parametrize(
    ("written", "query"),
    [
        ("how long do pears keep?", "how long do pears keep?"),
        ("  how long\t do pears\u2003keep?  ", "how long do pears keep?"),
        ("\n\nhow long do pears keep?\nAnswer: months", "how long do pears keep?"),
        ('"how long do pears keep?"', "how long do pears keep?"),
        ("“how long do pears keep?”", "how long do pears keep?"),
        ("Question: how long do pears keep?", "how long do pears keep?"),
        ("**Question:** how long do pears keep?", "how long do pears keep?"),
        ("A question: how long do pears keep?", "how long do pears keep?"),
        ('"Question: how long do pears keep?"', "how long do pears keep?"),
        ('Answer: "Question: how long do pears keep?".', "how long do pears keep?"),
        ('Web search query: "pear storage time"', "pear storage time"),
        ("Keywords: pear storage oxygen", "pear storage oxygen"),
        ('The title is: "Pears in the cold"', "Pears in the cold"),
        ('The title is "Pears in the cold".', "Pears in the cold"),
        ("1. how long do pears keep?\n2. where?", "how long do pears keep?"),
        ("- *pear storage*", "pear storage"),
        ("Sure! Here is a question:\n\nhow long do pears keep?", "how long do pears keep?"),
        ("Here's one: how long do pears keep?", "how long do pears keep?"),
        ("Storing pears in the cold:\n\nI hope this helps!", "Storing pears in the cold"),
        ("<think>The passage is about pears.</think>\n\nhow long do pears keep?", "how long do pears keep?"),
        ("The passage is about pears.\n</think>\n\nhow long do pears keep?", "how long do pears keep?"),
        ("ｐｅａｒ storage", "pear storage"),
        ("pear\x07 storage \ufffd", "pear storage"),
        ('{"query": "how long do pears keep?"}', "how long do pears keep?"),
        ('```json\n["how long do pears keep?"]\n```', "how long do pears keep?"),
        ("how long do pears keep?<|im_end|>\n<|im_start|>user\nThanks", "how long do pears keep?"),
        ("<|im_start|>assistant\nhow long do pears keep?<|im_end|>", "how long do pears keep?"),
        ("[INST] how long do pears keep? [/INST]", "how long do pears keep?"),
        ("<s>how long do pears keep?</s>", "how long do pears keep?"),
    ],
)
def test_the_query_is_taken_out_of_what_stands_around_it(written: str, query: str) -> None:
    assert cleaned(written) == (query, None)


def test_a_label_that_users_gave_a_type_is_taken_off() -> None:
    asked = Asked("Birnen lagern\nBirnen halten sich knapp über dem Gefrierpunkt am längsten.", "frage", "Frage")
    assert cleaned("Frage: Wie lange halten sich Birnen?", asked) == ("Wie lange halten sich Birnen?", None)


@pytest.mark.parametrize(
    ("written", "query"),
    [
        ("pears\nstorage\nethylene", "pears storage ethylene"),
        ("- pears\n- cold storage,\n\n- ethylene", "pears cold storage ethylene"),
        ("Keywords:\n1. pears\n2. cold storage\n\nThese words describe what it says.", "pears cold storage"),
        ("1. pears 2. storage 3. ethylene", "pears storage ethylene"),
        ("A. pears\nB. cold storage\nC. ethylene", "pears cold storage ethylene"),
        ("pears, storage, ethylene", "pears, storage, ethylene"),
        ("pears\nQuestion: how long do they keep?", "pears"),
    ],
)
def test_a_keyword_list_over_several_lines_is_one_query(written: str, query: str) -> None:
    assert cleaned(written, KEYWORDS) == (query, None)


@pytest.mark.parametrize(
    ("written", "asked", "query"),
    [
        ("How long do pears keep? They ke", ASKED, "How long do pears keep?"),
        ("how long do pears keep?\n\nThe reason for th", ASKED, "how long do pears keep?"),
        ("Pears keep in the cold.", ASKED, "Pears keep in the cold."),
        ("pears\ncold storage\nethyl", KEYWORDS, "pears cold storage"),
        ("pears, cold storage, ripe fruit, ethyl", KEYWORDS, "pears, cold storage, ripe fruit"),
        ("pears cold storage ethyl", KEYWORDS, "pears cold storage"),
        ("how long do pears ke", ASKED, None),
        ("Pears vs. apples in cold sto", ASKED, None),
        ("pears are kept in the cold so that the eth", KEYWORDS, None),
    ],
)
def test_the_token_limit_costs_a_query_only_where_it_cuts_the_query_itself(
    written: str, asked: Asked, query: str | None
) -> None:
    assert cleaned(written, cut(asked)) == (query, None if query else "cut_at_limit")


# --- what stays ---


@pytest.mark.parametrize(
    "query",
    [
        '"pears" and "apples" in one room',
        "'tis the season for pears, 'twas said",
        "python **kwargs in a call of pears",
        "1.5 degrees for pears",
        "the passage of time in cold air storage",
        "i can't sleep after eating pears",
        "Storing pears",
        "moist and poor in oxygen",
        "pears on sale cha cha cha",
        "which of my pears keep longest",
        "pears (ripe) in iso 9001 2015",
    ],
)
def test_what_belongs_to_a_query_stays(query: str) -> None:
    assert cleaned(query) == (query, None)


@pytest.mark.parametrize(
    "query",
    [
        "safe passage of ships through the suez canal",
        "nasal passage inflammation in children",
        "how long is the passage to tasmania by ferry?",
        "what is JSON",
        "c# { get; set; } shorthand",
        "title deed transfer cost",
        "A title may be held by two owners.",
        "A question of trust: banks after 2008",
        "Insurance claims for hail damage rise in summer.",
        "how do i close the document in word",
        "E. coli infection in calves",
        "let's encrypt certificate renew",
        "what a wonderful world chords",
        "ok computer album review",
        "here's to you meaning",
        "thank you letter after an interview",
        "error 0x80070057 when formatting a disk",
        "5901234123457 barcode of which product",
        "wifi 6 vs wifi 6e vs wifi 7",
        "cost of living in paris vs cost of living in london",
        "je ne sais quoi meaning",
        "When you are asked to testify, must you go?",
        "People who smoke are ill more often.",
        "[solved] printer offline",
        "what is vitamin a",
    ],
)
def test_queries_that_look_like_talk_about_a_prompt_stay(query: str) -> None:
    assert cleaned(query, about("")) == (query, None)


@pytest.mark.parametrize(
    ("passage", "query"),
    [
        ("A claim is void if the deed is false. The title is transferred when the deed is recorded.",
         "The title is transferred once a deed is recorded."),
        ("The passage behind the chapel leads to the crypt. The passage was dug in 1640.",
         "when was the passage behind the chapel dug"),
        ("The optimizer rewrites every query before it runs.", "The query is rewritten before it runs."),
        ("Chat templates mark turns with <|im_end|> or [INST].", "what does <|im_end|> mean in a chat template"),
        ("The hotel New York New York in Las Vegas has 2,024 rooms.", "rooms of new york new york"),
        ("The number 112 112 112 was dialled.", "112 112 112"),
    ],
)  # fmt: skip
def test_words_that_the_passage_uses_itself_are_no_talk_about_the_prompt(passage: str, query: str) -> None:
    assert cleaned(query, about(passage)) == (query, None)


@pytest.mark.parametrize(
    ("passage", "query"),
    [
        (
            "Honig lagern\nHonig bleibt dunkel und kühl gelagert jahrelang genießbar.",
            "Wie lange bleibt Honig genießbar?",
        ),
        ("蜂蜜的保存\n蜂蜜在阴凉处可以保存多年。", "蜂蜜可以保存多久?"),
        ("حفظ العسل\nيبقى العسل صالحا لسنوات إذا حفظ في مكان بارد.", "كم سنة يبقى العسل صالحا؟"),
        ("Хранение мёда\nМёд хранится годами в прохладном месте.", "сколько лет хранится мёд"),
        ("蜂蜜の保存\n蜂蜜は涼しい場所で何年も保存できます。", "蜂蜜は何年保存できますか?"),
        (PASSAGE, "Wie lange halten sich die Birnen im Keller und nicht im Schrank?"),
    ],
)
def test_queries_in_any_language_stay_where_none_is_asked_for(passage: str, query: str) -> None:
    assert cleaned(query, Asked(passage, "question", "Question", INSTRUCTION, EXAMPLES)) == (query, None)


# --- what is none ---


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "empty"),
        (" \n ?! \n", "empty"),
        ("Query:", "empty"),
        ("The answer is:", "empty"),
        ("Here are some keywords:", "empty"),
        ("https://example.org/pears", "empty"),
        ("<think>Well, the passage", "unfinished_thought"),
        ("</s><s>", "special_tokens"),
        ("<|im_end|>\n<|im_start|>user\nhow long do pears keep?", "special_tokens"),
        ('{"question": "how long do pears keep?", "answer": "months"}', "json"),
        ('{"question": "how long do pe', "json"),
        ("how long do pears keep " * 20_000, "too_long"),
        ("I'm sorry, but I can't help with that.", "refusal"),
        ("I’m unable to write a question for it.", "refusal"),
        ("As an AI, I have no taste.", "refusal"),
        ("Je suis désolé, mais je ne peux pas répondre à cette question.", "refusal"),
        ("Lo siento, pero no puedo ayudarte con eso.", "refusal"),
        ("Leider kann ich dabei nicht helfen.", "refusal"),
        ("抱歉,我无法回答这个问题。", "refusal"),
        ("Passage: The parcel could not be", "other_passage"),
        ("What does the passage say about pears?", "mentions_passage"),
        ("According to the passage, how long do pears keep?", "mentions_passage"),
        ("According to the article, how long do pears keep?", "mentions_passage"),
        ("The passage describes how pears are stored", "mentions_passage"),
        ("The passage contains three key words that must be separated by spaces, and …", "mentions_passage"),
        ("Which fruit is mentioned in the text?", "mentions_passage"),
        ("The method described above keeps pears for months.", "mentions_passage"),
        ("Which fruit is stored in this study?", "mentions_passage"),
        ("The authors were unaware of pears.", "mentions_passage"),
        ("One claim that supports the claim of a story about pears is:", "meta_talk"),
        ("If you want to write a different title, feel free to do so for pears", "meta_talk"),
        ("What a great question! Let's start with pears.", "meta_talk"),
        ("I'd be happy to help you store pears.", "meta_talk"),
        ("The purpose of this query is to store pears.", "meta_talk"),
        ("Yes.", "meta_talk"),
        ("How long do pears keep? Where are they kept? In which air?", "several_queries"),
        ("1. store pears 2. eat pears 3. buy pears", "several_queries"),
        ("pears keep 3 years 3 years 3 years", "repeats"),
        ("pears pears pears pears", "repeats"),
        ("pears, air, pears, air, pears, air", "repeats"),
        ("To explain storing pears, please explain storing pears", "repeats"),
        ("梨子梨子梨子梨子梨子梨子", "repeats"),
        ("1925.", "digits"),
        ("1.7", "digits"),
        ("10.1111/j.1365-2550.2012.01711.7", "digits"),
        ("pears 1 2 3 4 5 6 7 8 9 10", "digits"),
        ("Why does bread that was proofed overnight in the fridge have more flavour?", "echoes_example"),
        ("why should bread proof overnight in a refrigerator for flavour", "echoes_example"),
        ("Ten months in the air: how swifts sleep", "echoes_example"),
        ("three key words or short terms, separated by spaces", "echoes_instruction"),
        ("Pears keep longest, just above freezing: in air that is moist", "copies_passage"),
        ("Pears keep in the", "unfinished"),
        ("How long do pears keep in air of ...", "unfinished"),
        ("how do solar flares heat plasma", "unrelated"),
        ("How do they do it?", "unrelated"),
        ("Select three keywords for the search of pears", "meta_talk"),
        ("You'll find one selection of pears.", "meta_talk"),
        ("A review of storing pears. Not available in the database.", "refusal"),
        ('The "Pears keep longest just above freezing, in air that is moist"', "copies_passage"),
    ],
)
def test_what_is_no_query_gets_a_reason(written: str, reason: str) -> None:
    assert cleaned(written) == (None, reason)


@pytest.mark.parametrize(
    ("passage", "query"),
    [
        ("Authors who write for children meet in Bologna.", "The authors are many who write for children"),
        ("Hamlet asks: to be or not to be?", "To be or not to be"),
        ("The war of 1914 was over in 1918.", "1914"),
        ("The paper mill in Fabriano made this paper.", "who made paper in Fabriano?"),
    ],
)
def test_words_of_the_passage_itself_are_no_fault(passage: str, query: str) -> None:
    assert cleaned(query, Asked(passage, "question", "Question", language="en")) == (query, None)


def test_an_answer_that_says_one_line_over_and_over_is_dropped_when_it_is_cut() -> None:
    looped = "store pears;\n\nstore pears;\n\nstore pears;\n\nst"
    assert cleaned(looped, cut()) == (None, "repeats")


def test_only_the_examples_of_this_prompt_count_as_echoed() -> None:
    query = "Why does bread that was proofed overnight in the fridge have more flavour?"
    bakery = Asked(
        "Bread\nBread that proofs overnight in the fridge has more flavour, since acids form.", examples=EXAMPLES
    )
    assert cleaned(query, bakery) == (query, None)
    assert cleaned(query, dataclasses.replace(ASKED, examples=EXAMPLES[1:])) == (None, "unrelated")


@given(st.text(), st.sampled_from([ASKED, KEYWORDS, cut(), cut(KEYWORDS)]))
def test_any_output_is_one_clean_line_or_a_reason(written: str, asked: Asked) -> None:
    query, reason = cleaned(written, asked)
    assert (query is None) != (reason is None)
    if query is not None:
        assert query == " ".join(query.split())
        whole = dataclasses.replace(asked, finish_reason="stop")
        assert cleaned(query, whole) == (query, None)  # a query is taken as it is
