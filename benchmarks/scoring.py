"""Scoring of pairs with a cross-encoder: sentence-transformers' `CrossEncoder.predict` and ours, in turns.

    python -m benchmarks.scoring [--pairs 2000] [--turns 2] [--dtypes bfloat16 float32] [--batch 32]

The model is `--model`; without it, all-MiniLM-L6-v2 with a random head, since only the time counts. A pair is a summary
of NumPy's documentation with the docstring of that or of another object, 40 to a query. Both read the same pairs in the
same dtype, on all threads of torch. Theirs fills batches of `--batch` pairs, 32 as its default; a larger batch made it
slower. Ours has the default of a recipe. Tokens are those that the model was asked for, without padding. The last lines
say how far the scores of both are apart: bfloat16 rounds in either.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.machine import processor
from benchmarks.turns import OURS, THEIRS, Contestant, TokenMeter, compare, header, rows
from distill.encoders.loading import resolve_model
from distill.settings.teachers import TeacherSettings
from distill.teachers.cross_encoder import CrossEncoderScorer
from generation import pydocs

PASSAGES_OF_A_QUERY = 40


def save_classifier(encoder: str, folder: Path) -> str:
    """An encoder with a random head of one label, saved as a cross-encoder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    path = resolve_model(encoder)
    AutoModelForSequenceClassification.from_pretrained(path, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(path).save_pretrained(folder)
    return str(folder)


def some_pairs(count: int, package: str, seed: int) -> list[tuple[str, str]]:
    """Pairs of a query and a passage, `PASSAGES_OF_A_QUERY` to a query."""
    judged, dice = pydocs.judged((package,)), random.Random(seed)
    bodies = [doc.body for doc, _ in judged]
    pairs: list[tuple[str, str]] = []
    for doc, query in dice.sample(judged, min(len(judged), -(-count // PASSAGES_OF_A_QUERY))):
        pairs += [(query, body) for body in [doc.body, *dice.sample(bodies, PASSAGES_OF_A_QUERY - 1)]]
    return pairs[:count]


def contestants(
    model: str, dtype: str, max_tokens: int, batch: int, pairs: list[tuple[str, str]], device: str = "cpu"
) -> dict[str, Contestant]:
    """Both, each with a model of its own that has computed a few pairs."""
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(model, device=device, max_length=max_tokens, model_kwargs={"dtype": getattr(torch, dtype)})
    teacher = TeacherSettings(kind="cross_encoder", model=model, dtype=dtype, max_tokens=max_tokens)
    ours = CrossEncoderScorer(teacher, device)

    def predict(some: list[tuple[str, str]] = pairs) -> np.ndarray:
        logits = theirs.predict(
            some, batch_size=batch, activation_fn=torch.nn.Identity(), show_progress_bar=False,
            processing_kwargs={"text": {"truncation": "only_second"}},
        )  # fmt: skip
        return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits

    predict(pairs[:8])
    ours.score(pairs[:8])
    pad = theirs.tokenizer.pad_token_id
    return {
        OURS: Contestant(lambda: ours.score(pairs), TokenMeter(ours.model.model, pad)),
        THEIRS: Contestant(predict, TokenMeter(theirs.model, pad)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a cross-encoder; default: all-MiniLM-L6-v2 with a random head")
    parser.add_argument("--pairs", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32, help="pairs of a batch of sentence-transformers")
    parser.add_argument("--package", default="numpy", help="whose documentation is read")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    pairs = some_pairs(options.pairs, options.package, options.seed)
    with TemporaryDirectory() as folder:
        model = options.model or save_classifier("all-MiniLM-L6-v2", Path(folder))
        print(f"{processor()}, {torch.get_num_threads()} threads, {len(pairs):,} pairs\n\n{header('pairs')}")
        apart = {}
        for dtype in options.dtypes:
            both = contestants(model, dtype, options.max_tokens, options.batch, pairs)
            compare(both, options.turns)
            print(rows(dtype, both, len(pairs)), flush=True)
            apart[dtype] = float(np.abs(both[OURS].results - both[THEIRS].results).max())
    print("\n" + "\n".join(f"{dtype}: scores at most {most:.2g} apart" for dtype, most in apart.items()))


if __name__ == "__main__":
    main()
