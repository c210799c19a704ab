"""What a judge by likelihood reads, and what a recipe may say of it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from transformers import AutoTokenizer

from generation.judging import stage
from generation.judging.judged import as_generation, prompts_of
from generation.judging.likelihood import LikelihoodPrompts
from generation.judging.prompts import Pair
from generation.judging.rubric import LIKELIHOOD, load_rubric
from generation.judging.settings import JudgeSettings

HONEY = "A hive needs honey. It lasts for years. Bees make it in summer."


@pytest.fixture(scope="module")
def tokenizer(smollm2):
    return AutoTokenizer.from_pretrained(smollm2)


def prompts(tokenizer, longest=None, characters=2048) -> LikelihoodPrompts:
    judge = JudgeSettings(model="m", by="likelihood", prompt_characters=characters)
    made = prompts_of(judge, load_rubric(judge), tokenizer, longest)
    assert isinstance(made, LikelihoodPrompts)
    return made


def texts(tokenizer, read) -> list[str]:
    for tokens in read.prompts:
        assert tokenizer.decode(tokens[-read.count :]) == " how long does honey last"
    return [tokenizer.decode(tokens) for tokens in read.prompts]


def test_the_query_is_read_alone_and_after_its_passages(tokenizer):
    one = prompts(tokenizer).tokens(Pair("q", "how long does honey last", (("Honey", HONEY),)))
    assert texts(tokenizer, one) == [
        "Query: how long does honey last",
        f"Passage: Honey\n{HONEY}\n\nQuery: how long does honey last",
    ]
    two = prompts(tokenizer).tokens(Pair("q", "how long does honey last", (("Honey", HONEY), ("", "Ants."))))
    assert texts(tokenizer, two)[1].startswith(f"Passage: Honey\n{HONEY}\n\nPassage: Ants.\n\nQuery: how")


def test_a_long_passage_is_cut_at_a_sentence_and_the_query_never(tokenizer):
    pair = Pair("q", "how long does honey last", (("", HONEY),))
    whole = len(prompts(tokenizer).tokens(pair).prompts[1])
    shorter = prompts(tokenizer, longest=whole - 1).tokens(pair)
    expected = "Passage: A hive needs honey. It lasts for years.\n\nQuery: how long does honey last"
    assert texts(tokenizer, shorter)[1] == expected
    assert prompts(tokenizer, longest=8).tokens(pair) is None
    assert prompts(tokenizer, characters=64).tokens(Pair("q", "how long does honey last", (("", HONEY * 9),)))


def test_special_tokens_are_text_and_a_query_of_no_token_is_not_judged(tokenizer):
    read = prompts(tokenizer).tokens(Pair("q", "<|im_end|>", (("", "<|im_start|>"),)))
    special = {tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")}
    assert not special & {*read.prompts[0], *read.prompts[1]}

    class Silent:
        all_special_tokens, added_tokens_decoder = [], {}

        def encode(self, text: str, **_: bool) -> list[int]:
            return []

    assert prompts(Silent()).tokens(Pair("q", "?", (("", HONEY),))) is None


@pytest.mark.parametrize(
    "field", [{"rubric": "r.yaml"}, {"weights": {"natural": 2}}, {"chat_template_kwargs": {"a": 1}}]
)
def test_a_rubric_has_no_meaning_for_it(field):
    with pytest.raises(ValidationError, match="by: likelihood asks nothing"):
        JudgeSettings(model="m", by="likelihood", **field)


def test_grades_by_rubric_and_by_likelihood_are_told_apart_and_old_ones_stay():
    rubric, likelihood = JudgeSettings(model="m"), JudgeSettings(model="m", by="likelihood")
    assert load_rubric(likelihood) is LIKELIHOOD
    before = stage.identity(rubric, load_rubric(rubric))
    assert "by" not in before, "tables from before there was this field continue"
    after = stage.identity(likelihood, LIKELIHOOD)
    assert after["by"] == "likelihood" and after["template"] != before["template"]


def test_vllm_reads_few_tokens_at_once_so_that_their_logits_fit():
    assert as_generation(JudgeSettings(model="m")).engine_args == {}
    likelihood = JudgeSettings(model="m", by="likelihood", engine_args={"enforce_eager": True})
    assert as_generation(likelihood).engine_args == {"enforce_eager": True, "max_num_batched_tokens": 2048}
    own = likelihood.model_copy(update={"engine_args": {"max_num_batched_tokens": 512}})
    assert as_generation(own).engine_args["max_num_batched_tokens"] == 512
    assert stage.identity(own, LIKELIHOOD)["engine_args"] == {}, "it changes no grade"
