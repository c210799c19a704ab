"""Tokens that the judge reads: a prompt for each criterion, or the query with its passage and alone."""

from __future__ import annotations

from dataclasses import dataclass

from generation.judging.likelihood import beginning
from generation.judging.prompts import Pair, judge_text
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings
from launcher.plan.corpus import CorpusSample
from launcher.plan.tokenizers import token_counter

_QUERY = "how long does it take until honey from the forest sets in a cold cellar"  # of usual length


@dataclass(frozen=True)
class JudgeTokens:
    """Means over the queries.

    Attributes:
        criteria: prompts of a query; two of a judge by likelihood.
        whole: tokens of a prompt.
        computed: tokens of all prompts of a query that are new after prefix reuse, which vLLM has.
    """

    criteria: int
    whole: float
    computed: float


def judge_tokens(judge: JudgeSettings, sample: CorpusSample, per_source: float) -> JudgeTokens:
    """The tokens of the judge's prompts, on the sampled passages.

    Args:
        judge: its model counts the tokens.
        sample: of the corpus.
        per_source: judged queries of a source passage, on average.

    Raises:
        InputError: the rubric has mistakes.
    """
    rubric = load_rubric(judge)
    count, _ = token_counter(judge.model)
    whole = computed = 0.0
    if judge.by == "likelihood":  # vLLM, too, computes all tokens of both
        characters = judge.prompt_characters
        whole = sum(count(f"{beginning([passage], characters)} {_QUERY}") for passage in sample.texts)
        whole = whole / max(1, len(sample.texts)) + count(f"{beginning([], characters)} {_QUERY}")
        return JudgeTokens(2, whole / 2, whole)
    for title, text in sample.texts:
        pair = Pair("", _QUERY, ((title, text),))
        prompts = [judge_text(rubric, pair, name, judge.prompt_characters, chat=True) for name in rubric.questions]
        lengths = [count(prompt) for prompt in prompts]
        whole += sum(lengths) / len(lengths)
        if judge.engine == "transformers":
            computed += sum(lengths)
            continue
        first = prompts[0]
        query = first.rfind(_QUERY)
        with_query, passage = (count(first[:end]) for end in (query + len(_QUERY), query))
        shared = passage * (1 - 1 / max(1.0, per_source))  # one query of the passage computes it
        computed += sum(lengths) - (len(lengths) - 1) * with_query - shared
    texts = max(1, len(sample.texts))
    return JudgeTokens(len(rubric.questions), whole / texts, computed / texts)
