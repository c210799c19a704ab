"""An encoder gives the vectors of sentence-transformers, however the processor computes fastest."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.encoders.compute.cpu_attention import NAME
from distill.encoders.compute.cpu_linears import JoinedLayers
from distill.encoders.device import has_bfloat16_linear
from distill.encoders.encoder import Encoder
from distill.encoders.reading import Reading
from distill.settings.encoders import EncoderSettings
from tests.distill.ranks import on_ranks
from tests.distill.students import save_qwen3
from tests.distill.training.test_step import problem

TEXTS = [*problem()[1], "slate", ""]


def encode(model, dtype, **settings):
    encoder = Encoder(EncoderSettings(model="m", max_passage_tokens=48, dtype=dtype, **settings), "cpu", model)
    return encoder, encoder.encode_passages([""] * len(TEXTS), TEXTS)


def error(vectors, expected):
    return float(np.linalg.norm(vectors - expected) / np.linalg.norm(expected))


def test_vectors_are_those_of_sentence_transformers(student, monkeypatch):
    """In bfloat16 the error is at most 1.5 times that of autocast."""
    model = student[0].model
    model.max_seq_length = 48
    expected = model.encode(TEXTS)
    encoder, vectors = encode(model, "float32", batch_tokens=256)
    assert error(vectors, expected) < 1e-5
    assert encoder.module.attention != NAME, "torch's own attention is as fast"
    assert isinstance(encoder.module.layers, contextlib.nullcontext)

    monkeypatch.setattr("distill.encoders.compute.choose.choose_for_reading", lambda *_: None)
    _, autocast = encode(model, "bfloat16")
    monkeypatch.undo()
    encoder, vectors = encode(model, "bfloat16", batch_tokens=256)
    assert encoder.module.attention == NAME
    assert isinstance(encoder.module.layers, JoinedLayers) == has_bfloat16_linear()
    assert 0 < error(vectors, expected) < 1.5 * error(autocast, expected)


def test_a_model_with_another_attention_keeps_the_one_it_was_loaded_with(student, monkeypatch):
    model = student[0].model
    loaded = model.transformers_model.config._attn_implementation
    _, expected = encode(model, "float32")
    monkeypatch.setattr("distill.encoders.compute.choose.difference", lambda *_: "other embeddings")
    encoder, vectors = encode(model, "bfloat16")
    assert model.transformers_model.config._attn_implementation == loaded != "eager"
    assert encoder.module.attention == loaded and error(vectors, expected) < 0.03


# a word of three letters has more tokens than one of six, so that characters say little of tokens
VARIED = [(word * count).strip() for word in ("quarry ", "9x! ", "é", "the old slate ") for count in range(1, 25)]


def varied(tmp_path: Path, side: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Encoder, np.ndarray]:
    """An encoder that pads on a side and reads a few texts at once, and the vectors that its library gives alone."""
    path = save_qwen3(tmp_path / "model")
    model = Encoder(EncoderSettings(model=path, dtype="float32"), "cpu").model
    model.tokenizer.padding_side = side
    monkeypatch.setattr("distill.encoders.encoder.BLOCK_TOKENS", 2048)
    settings = EncoderSettings(model=path, dtype="float32", batch_tokens=256, max_passage_tokens=64)
    encoder = Encoder(settings, "cpu", model)
    model.max_seq_length = 64
    return encoder, model.encode(VARIED, batch_size=1)


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_text_is_read_once_and_batches_are_hardly_padded(tmp_path, monkeypatch, side):
    encoder, expected = varied(tmp_path, side, monkeypatch)
    encoder.encode_passages([""], ["slate"])  # the trial is over
    read, masks, features = [], [], Reading.features
    monkeypatch.setattr(Reading, "features", lambda self, texts: read.extend(texts) or features(self, texts))
    compute = encoder.module.forward
    monkeypatch.setattr(
        encoder.module, "forward", lambda **named: masks.append(named["attention_mask"]) or compute(**named)
    )
    vectors = encoder.encode_passages([""] * len(VARIED), VARIED)
    assert error(vectors, expected) < 1e-5
    assert sorted(read) == sorted(VARIED)
    own, computed = sum(int(mask.sum()) for mask in masks), sum(mask.numel() for mask in masks)
    assert max(mask.numel() for mask in masks) <= 256
    assert 1 - own / computed < 0.08, "in the order of their characters it was 0.16"


def test_a_batch_that_runs_out_of_memory_is_halved_and_later_ones_begin_so(tmp_path, monkeypatch):
    encoder, expected = varied(tmp_path, "right", monkeypatch)
    encoder.encode_passages([""], ["slate"])
    sizes, compute = [], encoder.module.forward

    def forward(**features):
        sizes.append(features["input_ids"].numel())
        if sizes[-1] > 100:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return compute(**features)

    monkeypatch.setattr(encoder.module, "forward", forward)
    assert error(encoder.encode_passages([""] * len(VARIED), VARIED), expected) < 1e-5
    assert encoder.batch_tokens == 64 and sum(size > 100 for size in sizes) == 2, "256, 128"
    sizes.clear()
    assert error(encoder.encode_passages([""] * len(VARIED), VARIED), expected) < 1e-5
    assert max(sizes) <= 64

    monkeypatch.setattr(encoder.module, "forward", lambda **_: forward(input_ids=torch.zeros(101)))
    sizes.clear()
    with pytest.raises(RuntimeError, match="one sequence alone runs out of memory"):
        encoder.encode_passages([""], ["slate " * 40])
    assert len(sizes) < 4, "a text that does not fit alone is not tried with every smaller budget"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_texts_give_no_vectors(student, dtype):
    encoder = Encoder(EncoderSettings(model="m", dtype=dtype), "cpu", student[0].model)
    assert encoder.encode_queries([]).shape == (0, encoder.dimension)
    assert np.isfinite(encoder.encode_queries(["slate"])).all()


def encode_on_rank_0(rank: int, world_size: int, path: str) -> list[float] | None:
    import torch.distributed as dist

    from distill.training.process_group import join_ranks

    join_ranks("cpu")
    vectors = None
    if rank == 0:
        vectors = Encoder(EncoderSettings(model=path, dtype="bfloat16"), "cpu").encode_queries(["slate", "a quarry"])
    dist.barrier()
    dist.destroy_process_group()
    return vectors if vectors is None else vectors.tolist()


def test_one_rank_of_a_process_group_encodes_while_the_others_do_not(tiny_encoder):
    vectors, none = on_ranks(encode_on_rank_0, 2, tiny_encoder, timeout_s=60)
    assert none is None
    alone = Encoder(EncoderSettings(model=tiny_encoder, dtype="bfloat16"), "cpu").encode_queries(["slate", "a quarry"])
    assert error(np.array(vectors), alone) < 1e-2


@pytest.mark.parametrize("pad", [True, False])
def test_a_text_of_no_tokens_is_read_as_a_full_stop(tmp_path, pad):
    """A tokenizer that adds nothing makes no token of an empty text: alone, beside others, in a file of tokens."""
    path = Path(save_qwen3(tmp_path / "model"))
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    settings = EncoderSettings(model=str(path), pooling="last", dtype="float32")
    encoder = Encoder(settings, "cpu")
    assert len(encoder.model.tokenizer("", add_special_tokens=True)["input_ids"]) == 0, "what the test is about"
    beside = ["slate of the quarries"] if pad else []
    vectors = encoder.encode_queries([*beside, "", "."])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[-2], vectors[-1], atol=1e-5)
    tokens = encoder.queries.token_ids([*beside, "", "."])
    assert tokens[-2].tolist() == tokens[-1].tolist() and len(tokens[-1]) == 1
