"""Encoding and scoring against sentence-transformers, with the benchmarks that also run on CPUs."""

from __future__ import annotations

from benchmarks import encoding, scoring
from benchmarks.gpu.material import Texts
from benchmarks.gpu.parts import Findings, Machine
from benchmarks.gpu.shapes import save_encoder, save_reranker, shapes
from benchmarks.turns import OURS, THEIRS, Contestant, compare

TURNS = 3
BATCH = 128  # texts of a batch of sentence-transformers; 32 is its default, and too few for a large GPU
APART = {"encoding": 0.01, "scoring": 0.1}  # 1 - cosine; difference of scores: bfloat16 rounds in either


def reading(machine: Machine, findings: Findings) -> None:
    """Times both on a BERT-base shape in bfloat16."""
    shape = shapes(machine.dry)["bert-base"]
    count, longest = (48, 48) if machine.dry else (20_000, 256)
    drawn = Texts(shape.words, 50)
    texts = drawn.texts(count, longest // 5, longest - 2)
    encoder = save_encoder(shape, machine.folder / "reading", longest)
    both = encoding.contestants(encoder, "bfloat16", longest, BATCH, texts, machine.device)
    _compare("encoding", both, count, findings)
    findings.check("embeddings agree", encoding.apart(both[OURS].results, both[THEIRS].results) < APART["encoding"])

    reranker = save_reranker(shape, machine.folder / "reranker", longest)
    pairs = [(drawn.text(10, number % 50), text) for number, text in enumerate(texts[: count // 2])]
    both = scoring.contestants(reranker, "bfloat16", longest, BATCH, pairs, machine.device)
    _compare("scoring", both, len(pairs), findings)
    apart = abs(both[OURS].results - both[THEIRS].results).max()
    findings.figure("scoring_apart", float(apart))
    findings.check("scores agree", apart < APART["scoring"])


def _compare(what: str, both: dict[str, Contestant], count: int, findings: Findings) -> None:
    compare(both, TURNS)
    for name, one in both.items():
        findings.figure(f"{what}_{name}_per_s", count / sorted(one.seconds)[TURNS // 2])
        findings.figure(f"{what}_{name}_padding", 1 - one.meter.read / one.meter.padded)
    ratios = sorted(b / a for a, b in zip(both[OURS].seconds, both[THEIRS].seconds, strict=True))
    findings.figure(f"{what}_times_theirs", ratios[TURNS // 2])
