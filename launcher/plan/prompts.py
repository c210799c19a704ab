"""Tokens of the generator's prompts, and how many of them must be computed when prompts share a prefix.

vLLM caches the keys and values of whole blocks of 16 tokens, and reuses them for every prompt with the same beginning.
A prompt begins with the instruction and the examples of its query type; then comes the passage, which is its own.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from generation.engines.base import Request, SecondPassage
from generation.prompting import Prompter
from generation.settings import GenerationSettings
from launcher.plan.corpus import CorpusSample
from launcher.plan.tokenizers import token_counter

BLOCK = 16  # tokens of a block of vLLM's cache
PASSAGES = 12  # passages of the sample that are measured, each with one prompt of every query type


@dataclass(frozen=True)
class PromptTokens:
    """Mean tokens of one prompt.

    Attributes:
        whole: tokens of the prompt.
        computed: tokens to compute when everything before the passage is in the cache.
        prefixes: number of different prefixes; every engine computes each of them once.
        with_tokenizer: whether the generator's own tokenizer counted the tokens.
    """

    whole: float
    computed: float
    prefixes: int
    with_tokenizer: bool


def prompt_tokens(generation: GenerationSettings, sample: CorpusSample) -> PromptTokens:
    """Measures the prompts of some sampled passages; the template that a chat adds to a prompt is not counted."""
    # A server may give its model any name, so that name finds no tokenizer.
    count, with_tokenizer = token_counter(generation.model if generation.engine == "vllm" else None)
    prompter = Prompter(generation)
    whole, computed, weights = [], [], []
    for number, own in enumerate(sample.texts[:PASSAGES]):
        other = sample.texts[(number + 1) % len(sample.texts)]
        for kind in generation.query_types:
            two = prompter.types[kind].hops == 2
            prompt, empty_prompt = (
                prompter.prompt(
                    Request(f"{number}:{kind}:0", str(number), *first, kind, 0,
                            SecondPassage(str(number + 1), *second) if two else None), "completion"
                ).text
                for first, second in ((own, other), (("", ""), ("", "")))
            )  # fmt: skip
            shared = 0  # characters of the common prefix
            while shared < min(len(prompt), len(empty_prompt)) and prompt[shared] == empty_prompt[shared]:
                shared += 1
            tokens = count(prompt)
            weights.append(prompter.types[kind].weight)
            whole.append(tokens)
            computed.append(tokens - count(prompt[:shared]) // BLOCK * BLOCK)
    prefixes = sum(prompter.prefixes(kind) for kind in generation.query_types)
    return PromptTokens(statistics.fmean(whole, weights), statistics.fmean(computed, weights), prefixes, with_tokenizer)
