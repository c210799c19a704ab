"""Rerankers computed here against `CrossEncoder.predict` and tokenizers of transformers: scores, tokens and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distill.settings.teachers import TeacherSettings
from distill.teachers.cross_encoder import CrossEncoderScorer
from distill.teachers.pair_reader import PairReader
from distill.teachers.pair_tokens import PairTokenizer
from distill.teachers.predict_reader import PredictReader
from tests.models import _texts, wordpiece_tokenizer

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.3,
}  # fmt: skip
KINDS = ("bert", "bert of two labels", "xlm-roberta", "modernbert")


def unigram_tokenizer():
    """Like XLM-R's: pieces of words, `<s> query </s></s> passage </s>`, and no token types."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer.train_from_iterator(
        _texts(), trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>")
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", cls_token="<s>", eos_token="</s>", sep_token="</s>",
        unk_token="<unk>", pad_token="<pad>", mask_token="<mask>", model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def save(kind: str, folder: Path) -> str:
    """A classifier with weights that are large enough for scores to differ."""
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        ModernBertConfig,
        ModernBertForSequenceClassification,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    torch.manual_seed(6)
    tokenizer = unigram_tokenizer() if kind == "xlm-roberta" else wordpiece_tokenizer()
    common = SMALL | {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_labels": 1}
    if kind == "xlm-roberta":
        config = XLMRobertaConfig(**common, max_position_embeddings=130, type_vocab_size=1)
        model = XLMRobertaForSequenceClassification(config)
    elif kind == "modernbert":
        ids = {"cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id}
        ids |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
        config = ModernBertConfig(
            **common, **ids, max_position_embeddings=128, local_attention=8, classifier_pooling="mean"
        )
        model = ModernBertForSequenceClassification(config)
    else:
        labels = {"num_labels": 2 if kind == "bert of two labels" else 1}
        model = BertForSequenceClassification(BertConfig(**(common | labels), max_position_embeddings=128))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {kind: save(kind, tmp_path_factory.mktemp("reranker")) for kind in KINDS}


def some_pairs() -> list[tuple[str, str]]:
    """Pairs of all lengths: with empty passages, in other order than that of their lengths, and some too long."""
    texts, dice = _texts(), np.random.default_rng(0)
    queries = [" ".join(text.split()[:3]) for text in texts]
    pairs = [
        (str(dice.choice(queries)), " ".join(dice.choice(texts, size=size))) for size in (0, 5, 1, 30, 2, 9, 60, 1)
    ]
    return [*pairs, *((query, "harbour") for query, _ in pairs), (pairs[0][0], pairs[3][1])]


def settings(model: str, **more) -> TeacherSettings:
    return TeacherSettings(kind="cross_encoder", model=model, max_tokens=64, **({"dtype": "float32"} | more))


def reference(model: str, pairs: list[tuple[str, str]], **more) -> np.ndarray:
    """(n,) scores by sentence-transformers in float32."""
    from sentence_transformers import CrossEncoder

    logits = CrossEncoder(model, device="cpu", max_length=64).predict(
        pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False,
        processing_kwargs={"text": {"truncation": "only_second"}}, **more,
    )  # fmt: skip
    return logits[:, 1] - logits[:, 0] if logits.ndim == 2 else logits


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_those_of_sentence_transformers_for_every_kind_of_classifier(rerankers, kind: str):
    pairs = some_pairs()
    scorer = CrossEncoderScorer(settings(rerankers[kind]))
    assert isinstance(scorer.reader, PairReader)
    expected = reference(rerankers[kind], pairs)
    assert expected.std() > 0.05, "scores that are alike would prove little"
    np.testing.assert_allclose(scorer.score(pairs), expected, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_scores_are_near_those_of_float32(rerankers, kind: str):
    pairs = some_pairs()
    expected = reference(rerankers[kind], pairs)
    scorer = CrossEncoderScorer(settings(rerankers[kind], dtype="bfloat16"))
    got = scorer.score(pairs)
    assert np.abs(got - expected).max() < 0.15 * (expected.max() - expected.min())
    assert np.array_equal(scorer.score(pairs), got), "the trial of the first call changes nothing later"
    assert next(scorer.model.model.base_model.parameters()).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_tokenizer_of_the_pair(rerankers, kind: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(rerankers[kind])
    pairs = some_pairs()
    texts = [query for query, _ in pairs], [passage for _, passage in pairs]
    expected = tokenizer(*texts, truncation="only_second", max_length=64)
    tokens = PairTokenizer(tokenizer, 64).tokens(pairs)
    assert [one.ids for one in tokens if one] == expected["input_ids"]
    assert max(map(len, expected["input_ids"])) == 64, "some are cut"
    if "token_type_ids" in expected:
        assert [one.first for one in tokens if one] == [types.index(1) for types in expected["token_type_ids"]]
    scorer = CrossEncoderScorer(settings(rerankers[kind]))
    scorer.score(pairs)
    assert scorer.take_tokens() == sum(map(len, expected["input_ids"]))
    assert scorer.take_tokens() == 0
    assert scorer.shown(pairs[3]) == tokenizer.decode(expected["input_ids"][3])


@pytest.mark.parametrize("kind", KINDS)
def test_a_query_without_room_for_a_passage_has_no_score_and_others_keep_theirs(rerankers, kind: str):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(rerankers[kind])
    queries = [" ".join(["harbour"] * count) for count in range(1, 66)]
    lengths = np.array([len(ids) for ids in tokenizer(queries, add_special_tokens=False)["input_ids"]])
    fits = lengths + tokenizer.num_special_tokens_to_add(pair=True) < 64
    pairs = [(query, "the old maps") for query in queries]
    scores = CrossEncoderScorer(settings(rerankers[kind])).score(pairs)
    np.testing.assert_array_equal(np.isnan(scores), ~fits)
    assert 0 < fits.sum() < len(fits)
    readable = [pair for pair, good in zip(pairs, fits, strict=True) if good]
    np.testing.assert_allclose(scores[fits], reference(rerankers[kind], readable), atol=1e-3)


def test_no_pairs_have_no_scores(rerankers):
    assert CrossEncoderScorer(settings(rerankers["bert"])).score([]).shape == (0,)


def test_a_model_with_a_prompt_is_computed_by_predict_and_halves_its_batches(rerankers, tmp_path, monkeypatch):
    from sentence_transformers import CrossEncoder

    prompts = {"prompts": {"search": "find the harbour "}, "default_prompt_name": "search"}
    CrossEncoder(rerankers["bert"], device="cpu", **prompts).save_pretrained(str(tmp_path / "own"))
    scorer = CrossEncoderScorer(settings(str(tmp_path / "own"), batch_size=8))
    assert isinstance(scorer.reader, PredictReader)
    pairs = some_pairs()
    expected = reference(str(tmp_path / "own"), pairs)
    assert np.abs(expected - reference(rerankers["bert"], pairs)).max() > 1e-2, "the prompt is read"
    np.testing.assert_allclose(scorer.score(pairs), expected, atol=1e-3)
    tokens, preprocess, sizes = scorer.take_tokens(), scorer.model.preprocess, []

    def small_memory(batch: list, **more):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.")
        return preprocess(batch, **more)

    monkeypatch.setattr(scorer.model, "preprocess", small_memory)
    np.testing.assert_allclose(scorer.score(pairs), expected, atol=1e-3)
    assert sizes[:3] == [8, 4, 2]
    assert scorer.reader.batch_size == 2
    assert scorer.take_tokens() == tokens


@pytest.mark.parametrize("missing", ["fast", "right"])
def test_a_tokenizer_that_pads_on_the_left_or_is_slow_is_left_to_predict(missing: str):
    tokenizer = wordpiece_tokenizer()
    assert PairTokenizer.fits(tokenizer)
    if missing == "right":
        tokenizer.padding_side = "left"
        assert not PairTokenizer.fits(tokenizer)
    else:
        assert not PairTokenizer.fits(object())
