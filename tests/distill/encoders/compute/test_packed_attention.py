"""Packed sequences give the embeddings and gradients of padded ones, or are not used."""

from __future__ import annotations

import numpy as np
import pytest


def test_packed_sequences_have_the_embeddings_and_gradients_of_padded_ones(student):
    import torch

    from distill.encoders.compute.choose import choose_layout
    from distill.encoders.layout import Layout

    student, tokens, pad_id = student
    packed, rows = choose_layout(student, tokens, pad_id, wanted=True), np.arange(len(tokens))
    assert packed.packed
    assert packed.size(tokens.lengths) == tokens.lengths.sum() < Layout(pad_id).size(tokens.lengths)
    assert packed.features(tokens, rows)["input_ids"].shape == (1, tokens.lengths.sum())
    found = []
    for layout, attention in ((packed, student.attention), (Layout(pad_id), "eager")):
        student.attention = attention
        student.zero_grad()
        embeddings = student(**layout.features(tokens, rows))
        (embeddings * torch.linspace(-1, 1, embeddings.numel()).reshape(embeddings.shape)).sum().backward()
        gradients = [each.grad for each in student.parameters() if each.grad is not None]
        found.append((embeddings.detach(), torch.cat([each.flatten() for each in gradients])))
    (embeddings, gradient), (expected, expected_gradient) = found
    torch.testing.assert_close(embeddings, expected, rtol=1e-5, atol=1e-5)
    assert float((gradient - expected_gradient).norm() / expected_gradient.norm()) < 1e-5


@pytest.mark.parametrize("fault", ["ignores the boundaries", "does not pass them on"])
def test_a_student_whose_packed_embeddings_differ_stays_padded(student, fault, monkeypatch):
    from transformers import AttentionInterface

    from distill.encoders.compute import packed_attention as packed
    from distill.encoders.compute.choose import choose_layout
    from distill.encoders.layout import Layout

    student, tokens, pad_id = student

    def blind(module, query, key, value, attention_mask, **about):
        whole = {"cu_seq_lens_q": torch.tensor([0, query.shape[2]])} if fault == "ignores the boundaries" else {}
        about = {name: value for name, value in about.items() if name != "cu_seq_lens_q"} | whole
        return packed.packed_attention(module, query, key, value, None, **about)

    import torch

    before = student.attention
    says = "other embeddings" if fault == "ignores the boundaries" else "KeyError"
    AttentionInterface.register(packed.NAME, blind)
    try:
        monkeypatch.setattr(packed, "has_kernel", lambda module: True)
        assert choose_layout(student, tokens, pad_id, wanted=None) == Layout(pad_id)
        assert student.attention == before
        with pytest.raises(ValueError, match=says):
            choose_layout(student, tokens, pad_id, wanted=True)
    finally:
        AttentionInterface.register(packed.NAME, packed.packed_attention)


def test_a_kernel_that_takes_bfloat16_alone_gets_nothing_else(student, monkeypatch):
    """Rotary positions leave queries and keys in float32 behind, and autocast does not know the kernel."""
    import torch

    from distill.encoders.compute.choose import choose_layout

    student, tokens, pad_id = student
    student.dtype = torch.bfloat16
    real, seen = torch.nn.functional.scaled_dot_product_attention, set()

    def attention(query, key, value, **how):
        seen.update((query.dtype, key.dtype, value.dtype))
        return real(query, key, value, **how)

    layout = choose_layout(student, tokens, pad_id, wanted=True)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    student(**layout.features(tokens, np.arange(4)))
    assert seen == {torch.bfloat16}


def test_a_packed_micro_batch_holds_no_more_sequences_than_the_kernel_has_room_for():
    from distill.training.batches import TOKENS_PER_SEQUENCE, deal

    lengths = np.full(1000, 3)
    _, (share,) = deal(lengths, 1, 640, packed=True)
    assert {len(each) for each in share.micro_batches} == {640 // TOKENS_PER_SEQUENCE}
    _, (share,) = deal(np.full(1000, 50), 1, 640, packed=True)
    assert {len(each) for each in share.micro_batches[:-1]} == {12}


def test_a_cpu_does_not_choose_the_loop(student):
    from distill.encoders.compute.choose import choose_layout

    student, tokens, pad_id = student
    assert not choose_layout(student, tokens, pad_id, wanted=None).packed
    assert not choose_layout(student, tokens, pad_id, wanted=False).packed
