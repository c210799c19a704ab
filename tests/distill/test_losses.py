"""The losses against the textbook in float64, and their gradients against autograd over the whole batch at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from distill.losses import LossSettings, contrastive, listwise_kl, loss_and_gradients

QUERIES, LENGTH, PASSAGES, DIMENSION = 9, 6, 40, 16


@pytest.fixture
def batch():
    random = np.random.default_rng(11)
    vectors = [random.normal(size=(count, DIMENSION)) for count in (QUERIES, PASSAGES)]
    query, passage = (torch.tensor(each / np.linalg.norm(each, axis=1, keepdims=True)).float() for each in vectors)
    slots = np.stack([random.permutation(PASSAGES)[:LENGTH] for _ in range(QUERIES)])
    teacher = np.sort(random.random((QUERIES, LENGTH)), axis=1)[:, ::-1].copy()
    slots[2, 4:], teacher[2, 4:] = -1, 0.0
    slots[5, 1:], teacher[5, 1:] = -1, 0.0
    counts = np.bincount(slots[slots >= 0], minlength=PASSAGES).clip(1)
    return query, passage, torch.tensor(slots), torch.tensor(teacher).float(), torch.tensor(counts)


def test_kl_equals_scipy_in_float64_at_the_sharpest_temperatures(batch):
    query, passage, slots, teacher, _ = batch
    settings = LossSettings(student_temperature=0.01, teacher_temperature=0.02)
    similarity = (query @ passage.T).gather(1, slots.clamp(min=0))
    found = listwise_kl(similarity, teacher, slots >= 0, settings)
    for row in range(QUERIES):
        filled = slots[row].numpy() >= 0
        p = softmax(teacher[row].double().numpy()[filled] / 0.02)
        log_q = similarity[row].double().numpy()[filled] / 0.01
        log_q -= logsumexp(log_q)
        expected = float(-entropy(p) - (p * log_q).sum())
        assert found[row].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_contrastive_equals_the_formula_in_float64(batch):
    query, passage, slots, teacher, counts = batch
    settings = LossSettings(contrastive_temperature=0.01, contrastive_margin=0.6)
    similarity = query @ passage.T
    for log_count in (None, counts.float().log()):
        found = contrastive(similarity, slots.clamp(min=0), teacher, slots >= 0, log_count, settings)
        weights = np.ones(PASSAGES) if log_count is None else counts.numpy()
        for row in range(QUERIES):
            listed = {
                int(slot): float(score) for slot, score in zip(slots[row], teacher[row], strict=True) if slot >= 0
            }
            best = max(listed, key=lambda slot: listed[slot])
            out = {slot for slot, score in listed.items() if score > 0.6 * listed[best]} | {best}
            logits = similarity[row].double().numpy() / 0.01
            negatives = [other for other in range(PASSAGES) if other not in out]
            terms = [logits[best], *(logits[other] + np.log(weights[other]) for other in negatives)]
            assert found[row].item() == pytest.approx(logsumexp(terms) - logits[best], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("chunk_elements", [1, 100, 1 << 20])
def test_gradients_do_not_depend_on_the_chunks(batch, chunk_elements):
    query, passage, slots, teacher, counts = batch
    settings = LossSettings()
    whole_query, whole_passage = query.clone().requires_grad_(), passage.clone().requires_grad_()
    similarity = whole_query @ whole_passage.T
    kl = listwise_kl(similarity.gather(1, slots.clamp(min=0)), teacher, slots >= 0, settings)
    nce = contrastive(similarity, slots.clamp(min=0), teacher, slots >= 0, None, settings)
    ((kl + 0.1 * nce).sum() / QUERIES).backward()
    sums, for_query, for_passage = loss_and_gradients(
        query, passage, slots, teacher, counts, QUERIES, settings, chunk_elements
    )
    for found, wanted in ((for_query, whole_query.grad), (for_passage, whole_passage.grad)):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert sums.kl.item() == pytest.approx(kl.sum().item(), rel=1e-5)
    assert sums.contrastive.item() == pytest.approx(nce.sum().item(), rel=1e-5)


def test_equal_teacher_scores_ask_for_a_flat_list(batch):
    query, passage, slots, _, _ = batch
    teacher = torch.full((QUERIES, LENGTH), 0.5)
    similarity = (query @ passage.T).gather(1, slots.clamp(min=0))
    found = listwise_kl(similarity, teacher, slots >= 0, LossSettings())
    assert torch.isfinite(found).all()
    flat = listwise_kl(torch.zeros(QUERIES, LENGTH), teacher, slots >= 0, LossSettings())
    torch.testing.assert_close(flat, torch.zeros(QUERIES), atol=1e-6, rtol=0)


def test_list_of_one_passage_costs_nothing(batch):
    query, passage, slots, teacher, _ = batch
    similarity = (query @ passage.T).gather(1, slots.clamp(min=0))
    assert listwise_kl(similarity, teacher, slots >= 0, LossSettings())[5].item() == pytest.approx(0.0, abs=1e-6)
