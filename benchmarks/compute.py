"""What each part of `docs/compute.md` gains, alone: micro-batches with everything, and without one part, in turns.

    python -m benchmarks.compute [--model all-MiniLM-L6-v2] [--tokens 16384] [--rounds 12] [--share 0.25]

One process. A round encodes `--batches` micro-batches of 256-token texts twice and pushes gradients back, once as the
trainer does it and once for each part that is left out; a round's order changes from round to round. A gain is the
median of the rounds' ratios, with the interval that holds the middle half of them.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.machine import processor
from cluster.machines.malloc import keep_freed_memory
from distill.activations.activations import Activations
from distill.activations.costs import measure
from distill.encoders.compute import cpu_attention
from distill.encoders.compute.choose import choose_for_training
from distill.encoders.compute.cpu_linears import JoinedLayers
from distill.encoders.loading import load_model
from distill.encoders.module import EncoderModule
from distill.encoders.reading import Reading
from distill.encoders.tokens import TokenFile, write_tokens
from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings

WORDS = [
    "harbour",
    "town",
    "stone",
    "bridge",
    "paper",
    "mill",
    "river",
    "slate",
    "market",
    "tower",
    "archive",
    "harvest",
    "winter",
    "signal",
    "copper",
]


@dataclass(frozen=True)
class MicroBatch:
    """See `ForwardPass`."""

    features: dict[str, Any]
    computed: int
    longest: int


@dataclass
class Bench:
    """A student and its micro-batches."""

    module: EncoderModule
    pad_id: int
    passages: TokenFile
    work: list[MicroBatch]

    def activations(self, share: float, without: tuple[str, ...] = ()) -> Activations:
        """What runs the passes, with memory for this share of all graphs."""
        costs = measure(self.module, self.work[0].features, self.work[0].computed, graph=True)
        return Activations(self.module, self.module, int(share * (costs.graph or 0) * len(self.work)), without=without)

    def run(self, activations: Activations) -> float:
        """Seconds of both runs of all micro-batches, with the gradients."""
        self.module.zero_grad(set_to_none=True)
        begun = time.perf_counter()
        activations.plan(self.work)
        shapes = [activations.first(micro).shape for micro in self.work]
        for micro, shape in zip(reversed(self.work), reversed(shapes), strict=True):
            (activations.second(micro) * torch.linspace(-1, 1, shape[1])).sum().backward()
        return time.perf_counter() - begun


def build(model: str, tokens: int, batches: int, folder: Path) -> Bench:
    """Student as the trainer chooses its parts, and micro-batches of so many tokens."""
    settings = StudentSettings(model=model, max_passage_tokens=256)
    loaded, dice = load_model(settings, "cpu"), random.Random(0)
    count = tokens // 256 * batches
    texts = [" ".join(dice.choices(WORDS, k=dice.randint(200, 300))) for _ in range(count)]
    write_tokens(folder / "passages", texts, Reading(loaded, "document", 256).token_ids)
    passages, pad_id = TokenFile(folder / "passages"), loaded.tokenizer.pad_token_id or 0
    module = EncoderModule(loaded, "cpu", torch.bfloat16)
    layout = choose_for_training(module, passages, pad_id, TrainingSettings())
    order = np.argsort(-passages.lengths, kind="stable")
    work = []
    for rows in np.array_split(order, batches):
        lengths = passages.lengths[rows]
        work.append(MicroBatch(layout.features(passages, rows), layout.size(lengths), int(lengths.max())))
    return Bench(module, pad_id, passages, work)


def parts(bench: Bench, share: float) -> dict[str, Callable[[], contextlib.AbstractContextManager[Activations]]]:
    """By name: a context in which the bench computes without that part."""
    whole, joined = bench.activations(share), bench.module.layers
    assert isinstance(joined, JoinedLayers), "this processor has no bfloat16 in oneDNN: there is nothing to compare"

    @contextlib.contextmanager
    def changed(attention: str | None = None, layers: Any = None, share_kept: float = share) -> Iterator[Activations]:
        own = bench.module.attention, bench.module.layers
        bench.module.attention, bench.module.layers = attention or own[0], own[1] if layers is None else layers
        try:
            yield bench.activations(share_kept)
        finally:
            bench.module.attention, bench.module.layers = own

    @contextlib.contextmanager
    def patched(name: str, value: Any) -> Iterator[Activations]:
        with patch.object(cpu_attention, name, value):
            yield whole

    return {
        "everything": lambda: contextlib.nullcontext(whole),
        "attention (the model's own, eager)": lambda: changed(attention="eager"),
        "attention (torch's fused one)": lambda: changed(attention="sdpa"),
        ": pieces that stay in the caches": lambda: patched("IN_CACHE", 1 << 40),
        "layers (autocast's)": lambda: changed(layers=contextlib.nullcontext()),
        ": layers of one input joined": lambda: changed(layers=JoinedLayers([])),
        "reuse": lambda: contextlib.nullcontext(bench.activations(share, ("reuse",))),
        "arena": lambda: contextlib.nullcontext(bench.activations(share, ("arena",))),
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--tokens", type=int, default=TrainingSettings().micro_batch_tokens)
    parser.add_argument("--batches", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--share", type=float, default=0.25, help="of all graphs' memory that is kept")
    options = parser.parse_args()
    torch.manual_seed(0)
    keep_freed_memory()
    with TemporaryDirectory() as folder:
        bench = build(options.model, options.tokens, options.batches, Path(folder))
    contestants = parts(bench, options.share)
    names, seconds = list(contestants), {name: [] for name in contestants}
    for number in range(options.rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with contestants[name]() as activations:
                bench.run(activations) if number == 0 else seconds[name].append(bench.run(activations))
    print(
        f"{processor()}, {torch.get_num_threads()} threads, {options.batches} micro-batches of {options.tokens:,} "
        f"tokens, {options.rounds} rounds, memory for {options.share:.0%} of the graphs\n"
    )
    print("| without | seconds, median | against everything | middle half of the rounds |\n|---|---|---|---|")
    for name in names:
        ratios = np.array(seconds[name]) / np.array(seconds["everything"])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        print(f"| {name} | {np.median(seconds[name]):.2f} | {middle - 1:+.1%} | {low - 1:+.1%} to {high - 1:+.1%} |")


if __name__ == "__main__":
    main()
