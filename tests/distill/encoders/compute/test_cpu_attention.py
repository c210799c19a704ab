"""Attention by plain products gives what the model's own attention gives, or is not used."""

from __future__ import annotations

import numpy as np
import pytest


def embed_and_push_back(student, features):
    """(B, d) embeddings, and the gradient of a weighted sum of them."""
    import torch

    student.zero_grad()
    embeddings = student(**features)
    (embeddings * torch.linspace(-1, 1, embeddings.numel()).reshape(embeddings.shape)).sum().backward()
    gradients = [each.grad.flatten() for each in student.parameters() if each.grad is not None]
    return embeddings.detach(), torch.cat(gradients)


@pytest.mark.parametrize("in_cache", [1 << 22, 80_000, 1])
def test_products_have_the_embeddings_and_gradients_of_the_models_own_attention(student, in_cache, monkeypatch):
    """In float32 to rounding; in bfloat16 no further from float32 than the model's own. In one piece or in many."""
    import torch

    from distill.encoders.compute import cpu_attention as attention
    from distill.encoders.compute.choose import choose_attention
    from distill.encoders.compute.trial import sampled_rows
    from distill.encoders.layout import Layout

    monkeypatch.setattr(attention, "IN_CACHE", in_cache)
    student, tokens, pad_id = student
    layout = Layout(pad_id)
    features, found = layout.features(tokens, np.arange(len(tokens))), {}
    trial = layout.features(tokens, sampled_rows(tokens))
    for products in (False, True):
        for student.dtype in (torch.float32, torch.bfloat16):
            if products:
                choose_attention(student, trial)
                assert student.attention == attention.NAME
            found[products, student.dtype] = embed_and_push_back(student, features)

    def error(products, dtype, what):
        expected = found[False, torch.float32][what]
        return float((found[products, dtype][what] - expected).norm() / expected.norm())

    for what in (0, 1):
        assert error(True, torch.float32, what) < 1e-5
        assert 0 < error(True, torch.bfloat16, what) < 1.5 * error(False, torch.bfloat16, what)


@pytest.mark.parametrize("fault", ["knows a bias that products do not", "takes no such attention"])
def test_a_student_that_attends_otherwise_keeps_its_own_attention(student, fault, monkeypatch):
    import torch

    from distill.encoders.compute import cpu_attention as attention
    from distill.encoders.compute.choose import choose_attention
    from distill.encoders.compute.trial import sampled_rows
    from distill.encoders.layout import Layout

    student, tokens, pad_id = student
    before = student.attention
    layout, own = Layout(pad_id), type(student)._use_attention

    def attend(self):
        if self.attention == attention.NAME and fault == "takes no such attention":
            raise ValueError(f"{self.attention} is not among the implementations of this model")
        own(self)

    def biased(module, query, key, value, attention_mask, **about):
        return attention.products_attention(module, query + 1, key, value.flip(2), attention_mask, **about)

    from transformers import AttentionInterface

    monkeypatch.setattr(type(student), "_use_attention", attend)
    AttentionInterface.register(attention.NAME, biased)
    try:
        choose_attention(student, layout.features(tokens, sampled_rows(tokens)))
    finally:
        AttentionInterface.register(attention.NAME, attention.products_attention)
    assert student.attention == before
    with torch.no_grad():
        student(**layout.features(tokens, np.arange(3)))


def test_a_mask_may_be_one_for_all_sequences(monkeypatch):
    import torch

    from distill.encoders.compute import cpu_attention as attention

    monkeypatch.setattr(attention, "IN_CACHE", 1)
    query, key, value = (torch.randn(3, 2, 5, 4, requires_grad=True) for _ in range(3))
    mask = torch.full((5, 5), -1e9).triu(1)[None, None]
    found = []
    for given in (mask, mask.expand(3, 1, 5, 5)):
        output = attention.Products.apply(query, key, value, given, 0.5)
        found.append((output, *torch.autograd.grad(output.square().sum(), (query, key, value))))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.5)
    torch.testing.assert_close(found[0][0], expected)
    assert all(torch.equal(one, each) for one, each in zip(*found, strict=True))


def test_a_row_that_sees_nothing_is_a_number_in_bfloat16():
    """The least float32, which transformers writes into masks, is infinite in bfloat16."""
    import torch

    from distill.encoders.compute.cpu_attention import products_attention

    query = torch.randn(2, 1, 4, 8, dtype=torch.bfloat16)
    mask = torch.full((2, 1, 4, 4), torch.finfo(torch.float32).min)
    output, _ = products_attention(torch.nn.Identity(), query, query, query, mask)
    assert output.isfinite().all()
    torch.testing.assert_close(output[:, 0, 0].float(), query.float().mean(2)[:, 0], atol=0.02, rtol=0.02)
