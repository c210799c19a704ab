"""Layouts of prompts: tokens that a prefix cache leaves to compute, counted for caches with blocks of several sizes.

    python -m benchmarks.prefix_blocks [--dataset FOLDER] [--model FOLDER] [--passages 40] [--blocks 16 32 128]

vLLM keeps prompts in whole blocks of tokens, of 16 on GPUs and of 128 on CPUs, and computes the last token of a prompt
always. So the tokens can be counted with the tokenizer alone, as if the cache never lost a block. The prompts are those
of `benchmarks.generation`, which prints what vLLM itself says for one size of blocks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from transformers import AutoTokenizer

from benchmarks.generation import LAYOUTS, passages, requests
from generation.engines.turns import token_ids
from generation.prompting import Prompter
from generation.settings import GenerationSettings


def computed(prompts: Iterable[Sequence[int]], block: int) -> int:
    """Tokens that are computed if every block of the prompts before stays in the cache."""
    known: set[tuple[int, ...]] = set()
    tokens = 0
    for ids in prompts:
        beginnings = [tuple(ids[:end]) for end in range(block, len(ids) + 1, block)]
        found = 0
        while found < len(beginnings) and beginnings[found] in known and (found + 1) * block < len(ids):
            found += 1
        tokens += len(ids) - found * block
        known.update(beginnings)
    return tokens


def main() -> None:
    """Prints one line a layout, with the tokens for each size of blocks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--model")
    parser.add_argument("--passages", type=int, default=40)
    parser.add_argument("--blocks", type=int, nargs="+", default=[16, 32, 128])
    options = parser.parse_args()
    if not (options.dataset / "corpus.jsonl").is_file():
        parser.exit(0, f"no BEIR folder at {options.dataset}: name one with --dataset\n")
    if options.model is None:
        from tests.smollm2 import smollm2_folder

        options.model = str(smollm2_folder())
    tokenizer, rows = AutoTokenizer.from_pretrained(options.model), passages(options.dataset, options.passages)
    settings = GenerationSettings(engine="vllm", model=options.model, prompt="completion")
    sizes = "".join(f" computed, blocks of {block} |" for block in options.blocks)
    print(f"| layout | prompt tokens |{sizes}\n|---|---|{'---|' * len(options.blocks)}")
    naive = 0  # prompt tokens of the first layout
    for name, changed in LAYOUTS.items():
        if changed["layout"] == "json":  # one prompt a passage, which shares nothing but the instruction
            continue
        one = settings.model_copy(update=changed)
        prompter, layout = Prompter(one), changed["layout"]
        asked = sorted(requests(rows, one), key=lambda request: prompter.beginning(request, layout))
        prompts = [token_ids(tokenizer, prompter.prompt(request, "completion", layout), {}) for request in asked]
        naive = naive or sum(map(len, prompts))
        each = [computed(prompts, block) for block in options.blocks]
        shown = "".join(f" {tokens:,} ({1 - tokens / naive:.0%} saved) |" for tokens in each)
        print(f"| {name} | {sum(map(len, prompts)):,} |{shown}", flush=True)


if __name__ == "__main__":
    main()
