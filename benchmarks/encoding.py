"""Encoding of passages: sentence-transformers' `SentenceTransformer.encode` and ours, in turns.

    python -m benchmarks.encoding [--texts 2000] [--turns 2] [--dtypes bfloat16 float32] [--batch 32]

Texts are docstrings of NumPy. Both encode the same texts with the same model in the same dtype, on all threads of
torch. Theirs holds its weights in that dtype and fills batches of `--batch` texts, 32 as its default. Ours has the
defaults of a recipe. Tokens are those that the model was asked for, without padding. The last lines say how far the
embeddings of both are apart, as one minus their cosine.
"""

from __future__ import annotations

import argparse
import random

import numpy as np
import torch

from benchmarks.machine import processor
from benchmarks.turns import OURS, THEIRS, Contestant, TokenMeter, compare, header, rows
from distill.encoders.encoder import Encoder
from distill.encoders.loading import resolve_model
from distill.settings.encoders import EncoderSettings
from generation import pydocs


def some_texts(count: int, package: str, seed: int) -> list[str]:
    """Docstrings in random order."""
    texts = [doc.body for _, docs in pydocs.collect((package,)) for doc in docs]
    random.Random(seed).shuffle(texts)
    return texts[:count]


def contestants(
    model: str, dtype: str, max_tokens: int, batch: int, texts: list[str], device: str = "cpu"
) -> dict[str, Contestant]:
    """Both, each with a model of its own that has encoded a few texts."""
    from sentence_transformers import SentenceTransformer

    path, kind = resolve_model(model), {"dtype": getattr(torch, dtype)}
    theirs = SentenceTransformer(path, device=device, model_kwargs=kind)
    theirs.max_seq_length = max_tokens
    ours = Encoder(EncoderSettings(model=model, dtype=dtype, max_passage_tokens=max_tokens), device)

    def encode(some: list[str] = texts) -> np.ndarray:
        vectors = theirs.encode(some, batch_size=batch, show_progress_bar=False, convert_to_tensor=True)
        return vectors.float().cpu().numpy()

    encode(texts[:8])
    ours.encode_passages([""] * 8, texts[:8])
    pad = theirs.tokenizer.pad_token_id
    return {
        OURS: Contestant(
            lambda: ours.encode_passages([""] * len(texts), texts), TokenMeter(ours.model.transformers_model, pad)
        ),
        THEIRS: Contestant(encode, TokenMeter(theirs.transformers_model, pad)),
    }


def apart(left: np.ndarray, right: np.ndarray) -> float:
    """Largest 1 − cosine of the rows."""
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((1 - (left * right).sum(axis=1) / lengths).max())


def main(arguments: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="texts of a batch of sentence-transformers")
    parser.add_argument("--package", default="numpy", help="whose documentation is read")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    texts, far = some_texts(options.texts, options.package, options.seed), {}
    print(f"{processor()}, {torch.get_num_threads()} threads, {len(texts):,} texts\n\n{header('texts')}")
    for dtype in options.dtypes:
        both = contestants(options.model, dtype, options.max_tokens, options.batch, texts)
        compare(both, options.turns)
        print(rows(dtype, both, len(texts)), flush=True)
        far[dtype] = apart(both[OURS].results, both[THEIRS].results)
    print("\n" + "\n".join(f"{dtype}: embeddings at most {most:.2g} apart" for dtype, most in far.items()))


if __name__ == "__main__":
    main()
