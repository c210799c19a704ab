"""The losses against the textbook in float64, and their gradients against autograd over the whole batch at once."""

from __future__ import annotations

import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy

from distill.losses.batch import LIST_LOSSES, LossSettings, list_loss, loss_and_gradients
from distill.losses.contrastive import info_nce
from distill.losses.listwise import lambda_loss
from distill.losses.pairwise import margin_mse, ranknet
from distill.settings.training import TrainingSettings

QUERIES, LENGTH, PASSAGES, DIMENSION = 9, 6, 40, 16


@pytest.fixture
def batch():
    random = np.random.default_rng(11)
    vectors = [random.normal(size=(count, DIMENSION)) for count in (QUERIES, PASSAGES)]
    query, passage = (torch.tensor(rows / np.linalg.norm(rows, axis=1, keepdims=True)).float() for rows in vectors)
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
    divergence = list_loss(similarity, teacher, slots >= 0, settings)
    for row in range(QUERIES):
        filled = slots[row].numpy() >= 0
        p = softmax(teacher[row].double().numpy()[filled] / 0.02)
        log_q = similarity[row].double().numpy()[filled] / 0.01
        log_q -= logsumexp(log_q)
        expected = float(-entropy(p) - (p * log_q).sum())
        assert divergence[row].item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_contrastive_equals_the_formula_in_float64(batch):
    query, passage, slots, teacher, counts = batch
    similarity = query @ passage.T
    for log_count in (None, counts.float().log()):
        loss = info_nce(similarity / 0.01, slots.clamp(min=0), teacher, slots >= 0, log_count, 0.6)
        weights = np.ones(PASSAGES) if log_count is None else counts.numpy()
        for row in range(QUERIES):
            listed = {
                int(slot): float(score) for slot, score in zip(slots[row], teacher[row], strict=True) if slot >= 0
            }
            best = max(listed, key=lambda slot: listed[slot])
            not_negative = {slot for slot, score in listed.items() if score > 0.6 * listed[best]} | {best}
            logits = similarity[row].double().numpy() / 0.01
            negatives = [other for other in range(PASSAGES) if other not in not_negative]
            terms = [logits[best], *(logits[other] + np.log(weights[other]) for other in negatives)]
            assert loss[row].item() == pytest.approx(logsumexp(terms) - logits[best], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("chunk_elements", [1, 100, 1 << 20])
def test_gradients_do_not_depend_on_the_chunks(batch, chunk_elements):
    query, passage, slots, teacher, counts = batch
    settings = LossSettings()
    whole_query, whole_passage = query.clone().requires_grad_(), passage.clone().requires_grad_()
    similarity = whole_query @ whole_passage.T
    kl = list_loss(similarity.gather(1, slots.clamp(min=0)), teacher, slots >= 0, settings)
    nce = info_nce(similarity / 0.01, slots.clamp(min=0), teacher, slots >= 0, None, 0.6)
    ((kl + 0.1 * nce).sum() / QUERIES).backward()
    sums, for_query, for_passage = loss_and_gradients(
        query, passage, slots, teacher, counts, QUERIES, settings, chunk_elements
    )
    for gradient, wanted in ((for_query, whole_query.grad), (for_passage, whole_passage.grad)):
        assert (gradient - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    assert sums.listed.item() == pytest.approx(kl.sum().item(), rel=1e-5)
    assert sums.contrastive.item() == pytest.approx(nce.sum().item(), rel=1e-5)


def test_every_loss_that_a_recipe_may_name_has_a_function():
    """A name without one would train with the KL divergence, and nothing would say so."""
    assert set(get_args(TrainingSettings.model_fields["loss"].annotation)) == {*LIST_LOSSES, "infonce"}


def test_equal_teacher_scores_are_learnt_as_equal_similarities(batch):
    query, passage, slots, _, _ = batch
    teacher = torch.full((QUERIES, LENGTH), 0.5)
    similarity = (query @ passage.T).gather(1, slots.clamp(min=0))
    divergence = list_loss(similarity, teacher, slots >= 0, LossSettings())
    assert torch.isfinite(divergence).all()
    flat = list_loss(torch.zeros(QUERIES, LENGTH), teacher, slots >= 0, LossSettings())
    torch.testing.assert_close(flat, torch.zeros(QUERIES), atol=1e-6, rtol=0)


def test_list_of_one_passage_has_no_loss(batch):
    query, passage, slots, teacher, _ = batch
    similarity = (query @ passage.T).gather(1, slots.clamp(min=0))
    assert list_loss(similarity, teacher, slots >= 0, LossSettings())[5].item() == pytest.approx(0.0, abs=1e-6)


def pairs_of(teacher):
    """Index pairs of one list in which the teacher prefers the first passage."""
    return [(i, j) for i in range(len(teacher)) for j in range(len(teacher)) if teacher[i] > teacher[j]]


def margin_mse_formula(student, teacher):
    best = int(np.argmax(teacher))
    margins = [(student[best] - student[n]) - (teacher[best] - teacher[n]) for n in range(len(student)) if n != best]
    return np.mean(np.square(margins)) if margins else 0.0


def ranknet_formula(student, teacher):
    """The paper's C = −P̄ log P − (1 − P̄) log(1 − P), with P = 1 / (1 + exp(s_j − s_i)) and P̄ = 1."""
    costs = [-np.log(1 / (1 + np.exp(student[j] - student[i]))) for i, j in pairs_of(teacher)]
    return np.mean(costs) if costs else 0.0


def lambdaloss_formula(student, teacher, mu=10.0):
    """NDCG-Loss2++ with one-based ranks, term by term."""
    order = np.argsort(-np.asarray(student), kind="stable")
    rank_of = {int(passage): rank for rank, passage in enumerate(order, start=1)}
    gains = [2**grade - 1 for grade in teacher]
    max_dcg = sum(gain / np.log2(1 + rank) for rank, gain in enumerate(sorted(gains, reverse=True), start=1))
    total = 0.0
    for i, j in pairs_of(teacher):
        rho = abs(1 / np.log2(1 + rank_of[i]) - 1 / np.log2(1 + rank_of[j]))
        distance = abs(rank_of[i] - rank_of[j])
        delta = abs(1 / np.log2(1 + distance) - 1 / np.log2(2 + distance))
        likelihood = 1 / (1 + np.exp(-(student[i] - student[j])))
        total -= (rho + mu * delta) * abs(gains[i] - gains[j]) / max_dcg * np.log2(likelihood)
    return total


FORMULAS = {"margin_mse": margin_mse_formula, "ranknet": ranknet_formula, "lambdaloss": lambdaloss_formula}


@pytest.mark.parametrize("name", FORMULAS)
def test_every_list_loss_equals_its_formula_in_float64(batch, name):
    query, passage, slots, teacher, _ = batch
    teacher[7, 1] = teacher[7, 0]  # a tie at the top
    similarity = (query @ passage.T).gather(1, slots.clamp(min=0))
    settings = LossSettings(loss=name, student_temperature=0.05, teacher_temperature=0.3)
    loss = list_loss(similarity, teacher, slots >= 0, settings)
    for row in range(QUERIES):
        filled = slots[row].numpy() >= 0
        student_scores = similarity[row].double().numpy()[filled] / 0.05
        teacher_scores = teacher[row].double().numpy()[filled] / 0.3
        expected = FORMULAS[name](student_scores, teacher_scores)
        assert loss[row].item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_margin_mse_equals_sentence_transformers(batch):
    """Both average over queries and negatives; at temperature 1 both take raw scores."""
    from sentence_transformers.sentence_transformer.losses import MarginMSELoss

    query, passage, _, _, _ = batch
    random = np.random.default_rng(4)
    slots = torch.tensor(np.stack([random.permutation(PASSAGES)[:LENGTH] for _ in range(QUERIES)]))
    teacher = torch.tensor(np.sort(random.random((QUERIES, LENGTH)), axis=1)[:, ::-1].copy()).float()
    library = MarginMSELoss(model=None)
    embeddings = [query, *(passage[slots[:, slot]] for slot in range(LENGTH))]
    wanted = library.compute_loss_from_embeddings(embeddings, teacher[:, :1] - teacher[:, 1:])
    similarity = (query @ passage.T).gather(1, slots)
    loss = margin_mse(similarity, teacher, torch.ones_like(slots, dtype=torch.bool)).mean()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)


def test_ranknet_of_two_passages_is_the_papers_curve():
    """Burges et al., figure 1 and section 3: log 2 at equal outputs, log(1 + exp(−o)) at a difference of o."""
    filled, teacher = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[1.0, 0.0]])
    for difference, wanted in ((0.0, 0.693147), (1.0, 0.313262), (-3.0, 3.048587)):
        assert ranknet(torch.tensor([[difference, 0.0]]), teacher, filled).item() == pytest.approx(wanted, abs=1e-6)


def test_lambdaloss_of_two_passages_is_the_papers_value():
    """Grades 1 and 0, ranked in the wrong order: ρ = δ = 1 − 1/log2(3), maxDCG = 1, so (1 + μ) ρ · log2(1 + e)."""
    loss = lambda_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, dtype=torch.bool))
    assert loss.item() == pytest.approx(11 * (1 - 1 / np.log2(3)) * np.log2(1 + np.e), rel=1e-5)


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_a_student_that_agrees_with_the_teacher_has_a_lower_loss_than_one_that_does_not(batch, name):
    _, _, slots, teacher, _ = batch
    settings = LossSettings(loss=name, student_temperature=0.3)
    agrees, differs = (list_loss(scores, teacher, slots >= 0, settings) for scores in (teacher, teacher.flip(1)))
    several = (slots >= 0).sum(dim=1) > 1
    assert (agrees <= differs)[several].all()
    assert torch.isfinite(agrees).all() and (agrees >= -1e-6).all()


@pytest.mark.parametrize("name", LIST_LOSSES)
def test_equal_scores_and_short_lists_give_finite_gradients(batch, name):
    query, passage, slots, _, counts = batch
    teacher = torch.full((QUERIES, LENGTH), 0.5) * (slots >= 0)
    settings = LossSettings(loss=name)
    sums, *gradients = loss_and_gradients(query, passage, slots, teacher, counts, QUERIES, settings)
    assert torch.isfinite(sums.listed) and all(torch.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("loss", [*LIST_LOSSES, "infonce"])
@pytest.mark.parametrize("matryoshka", [(), (4, 10)])
def test_gradient_of_every_loss_equals_that_of_autograd_over_the_whole_batch(batch, loss, matryoshka):
    query, passage, slots, teacher, counts = batch
    settings = LossSettings(loss=loss, matryoshka=matryoshka)
    whole_query, whole_passage = query.clone().requires_grad_(), passage.clone().requires_grad_()
    filled, total = slots >= 0, 0.0
    for size in (*matryoshka, DIMENSION):
        embeddings = [whole_query, whole_passage]
        if size < DIMENSION:
            embeddings = [rows[:, :size] / rows[:, :size].norm(dim=1, keepdim=True) for rows in embeddings]
        similarity = embeddings[0] @ embeddings[1].T
        nce = info_nce(similarity / 0.01, slots.clamp(min=0), teacher, filled, None, 0.6).sum()
        listed = list_loss(similarity.gather(1, slots.clamp(min=0)), teacher, filled, settings).sum()
        total = total + (nce if loss == "infonce" else listed + 0.1 * nce) / (1 + len(matryoshka))
    (total / QUERIES).backward()
    sums, *gradients = loss_and_gradients(query, passage, slots, teacher, counts, QUERIES, settings, chunk_elements=130)
    for gradient, wanted in zip(gradients, (whole_query.grad, whole_passage.grad), strict=True):
        assert (gradient - wanted).abs().max() <= 2e-5 * wanted.abs().max()
    logged = sums.contrastive if loss == "infonce" else sums.listed + 0.1 * sums.contrastive
    assert logged.item() == pytest.approx(total.item(), rel=1e-5)


def test_similarities_of_many_queries_and_80000_passages_are_never_all_in_memory():
    """A matrix of 1,024 × 80,000 is 312 MiB, and autograd over InfoNCE holds five; chunks use the same for 4,096."""
    code = """
import resource, torch
from distill.losses.batch import LossSettings, loss_and_gradients
torch.manual_seed(0)
query, passage = (torch.nn.functional.normalize(torch.randn(count, 16)) for count in (1024, 80_000))
slots = torch.randint(80_000, (1024, 20))
arguments = (slots, torch.rand(1024, 20), torch.ones(80_000), 1024, LossSettings())
loss_and_gradients(query[:64], passage, slots[:64], arguments[1][:64], *arguments[2:])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sums, *_ = loss_and_gradients(query, passage, *arguments)
print(before // 1024, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, float(sums.contrastive))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    _, growth, loss = (float(number) for number in process.stdout.split())
    assert np.isfinite(loss)
    assert growth < 700, f"{growth} MiB more than for 64 queries"


@pytest.mark.parametrize("name", ["lambdaloss", "ranknet"])
def test_losses_over_pairs_equal_sentence_transformers(tiny_reranker, name):
    """The library's LambdaLoss takes the mean over pairs where ours takes the sum; its RankNet uses log2, ours ln."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import LambdaLoss, RankNetLoss

    class SpreadScores(torch.nn.Identity):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            self.scores = 10_000 * (input - input.mean()).detach()  # a random model's scores hardly differ
            return self.scores

    spread = SpreadScores()
    model = CrossEncoder(tiny_reranker, device="cpu").eval()
    library = (LambdaLoss if name == "lambdaloss" else RankNetLoss)(model, activation_fn=spread)
    texts = ["a stone bridge", "the paper mill of the town", "slate", "harbour and cotton", "a lamp", "orchard river"]
    grades = torch.tensor([3.0, 0.5, 2.2, 0.0, 1.0, 2.2])
    wanted = library([["old mill"], [texts]], [grades]).item()
    logits = spread.scores.reshape(1, -1)
    assert logits.std() > 0.1
    ours = LIST_LOSSES[name](logits, grades[None], torch.ones(1, 6, dtype=torch.bool)).item()
    count = len(pairs_of(grades.tolist()))
    assert ours == pytest.approx(wanted * count if name == "lambdaloss" else wanted * np.log(2), rel=1e-5)
