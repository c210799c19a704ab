"""Tokens of the prompts that a generator would read, and how many of them are left when shared prefixes are kept.

vLLM keeps the keys and values of whole blocks of 16 tokens and finds them again for every prompt that begins alike. A
prompt begins with its type's instruction and examples; what it has for itself is the passage and what follows.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from generation.engines.base import Request
from generation.prompting import Prompter
from generation.settings import GenerationSettings
from launcher.plan.corpus import Sample, token_counter

BLOCK = 16  # tokens of a block of vLLM's cache
PASSAGES = 12  # of the sample, each with a prompt of every type


@dataclass(frozen=True)
class PromptTokens:
    """Of one prompt, on average.

    Attributes:
        whole: tokens of the prompt.
        computed: tokens that are left when everything before the passage is in the cache.
        prefixes: how many different beginnings there are, each computed once by every engine.
        with_tokenizer: whether the generator's own tokenizer counted.
    """

    whole: float
    computed: float
    prefixes: int
    with_tokenizer: bool


def prompt_tokens(generation: GenerationSettings, sample: Sample) -> PromptTokens:
    """Measures prompts of some sampled passages; those of a chat are counted without the template around them."""
    # what a server calls its model is no name of the hub
    count, with_tokenizer = token_counter(generation.model if generation.engine == "vllm" else None)
    prompter = Prompter(generation)
    whole, computed, weights = [], [], []
    for number, (title, text) in enumerate(sample.texts[:PASSAGES]):
        for kind in generation.query_types:
            unit = f"{number}:{kind}:0"
            prompt, before = (
                prompter.prompt(Request(unit, str(number), *shown, kind, 0), "completion").text
                for shown in ((title, text), ("", ""))
            )
            shared = 0
            while shared < min(len(prompt), len(before)) and prompt[shared] == before[shared]:
                shared += 1
            tokens = count(prompt)
            weights.append(prompter.types[kind].weight)
            whole.append(tokens)
            computed.append(tokens - count(prompt[:shared]) // BLOCK * BLOCK)
    prefixes = sum(prompter.prefixes(kind) for kind in generation.query_types)
    return PromptTokens(statistics.fmean(whole, weights), statistics.fmean(computed, weights), prefixes, with_tokenizer)
