"""The contract of the gradient: any number of ranks computes what one process holding the whole batch computes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.distill.ranks import on_ranks

QUERIES, LENGTH, CORPUS = 12, 5, 17
MODES = {
    "kl": {"contrastive_weight": 0.0, "contrastive_temperature": 0.05},
    "contrastive": {"kl_weight": 0.0, "contrastive_weight": 1.0, "contrastive_temperature": 0.05},
    "both": {"contrastive_weight": 0.1, "contrastive_temperature": 0.05},
    "counted": {"contrastive_weight": 0.1, "contrastive_temperature": 0.05, "weight_by_count": True},
}


def problem() -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Texts, lists and scores with repeats, uneven lengths, and two lists shorter than the others."""
    random = np.random.default_rng(7)
    words = [
        "harbour",
        "town",
        "stone",
        "bridge",
        "paper",
        "mill",
        "slate",
        "river",
        "cotton",
        "lamp",
        "meadow",
        "orchard",
    ]
    passages = [" ".join(random.choice(words, size=random.integers(3, 40))) for _ in range(CORPUS)]
    queries = [" ".join(random.choice(words, size=random.integers(1, 9))) for _ in range(QUERIES)]
    lists = np.stack([random.permutation(CORPUS - 4)[:LENGTH] for _ in range(QUERIES)])
    scores = np.sort(random.random((QUERIES, LENGTH)).astype(np.float32))[:, ::-1].copy()
    lists[3, 3:] = -1
    lists[8, 2:] = -1
    scores[lists < 0] = 0.0
    return queries, passages, lists, scores


def reference_loss(query, passage, lists, scores, mode, student=0.05, teacher=0.3, margin=0.6):
    """The formulas over all Q × L slots, every passage as often as it is listed: (Q, d), (P, d) → scalar."""
    import torch

    kl_weight, weight = mode.get("kl_weight", 1.0), mode["contrastive_weight"]
    temperature = mode.get("contrastive_temperature", 0.01)
    slots = [(i, int(row)) for i in range(len(lists)) for row in lists[i] if row >= 0]
    if not mode.get("weight_by_count"):
        slots = [(None, row) for row in sorted({row for _, row in slots})]
    total = query.new_zeros(())
    for i in range(len(lists)):
        rows = [int(row) for row in lists[i] if row >= 0]
        taught = torch.tensor(scores[i][: len(rows)], dtype=query.dtype)
        logits = torch.stack([query[i] @ passage[row] for row in rows]) / student
        p = torch.exp(taught / teacher) / torch.exp(taught / teacher).sum()
        q = torch.exp(logits) / torch.exp(logits).sum()
        total = total + kl_weight * (p * (p / q).log()).sum()
        best = int(taught.argmax())
        close = {row for row, score in zip(rows, taught, strict=True) if score > margin * taught[best]}
        close.add(rows[best])
        positive = torch.exp(query[i] @ passage[rows[best]] / temperature)
        negatives = sum(torch.exp(query[i] @ passage[row] / temperature) for _, row in slots if row not in close)
        total = total - weight * (positive / (positive + negatives)).log()
    return total / len(lists)


def gradients(rank, world_size, encoder, folder, modes, zero_stage, activation_tokens):
    """Parameter gradients after one step, by mode, and what the step reported."""
    import torch
    import torch.distributed as dist
    from deepspeed.utils import safe_get_full_grad

    from distill.batches import plan_step
    from distill.encoder import load_model
    from distill.engine import join_ranks, start_engine
    from distill.losses import LossSettings
    from distill.settings import StudentSettings, TrainingSettings
    from distill.step import Stepper, Student
    from distill.tokens import TokenFile

    join_ranks("cpu")
    _, _, lists, scores = problem()
    tokens = [TokenFile(Path(folder) / name) for name in ("queries", "passages")]
    found = {}
    for name, mode in modes.items():
        model = load_model(StudentSettings(model=encoder), "cpu")
        training = TrainingSettings(gradient_clip=1e9, zero_stage=zero_stage)
        engine = start_engine(Student(model, "cpu", torch.float32), training, world_size)
        stepper = Stepper(engine, *tokens, LossSettings(**mode), activation_tokens, model.tokenizer.pad_token_id)
        plan = plan_step(np.arange(QUERIES), lists, tokens[0].lengths, tokens[1].lengths, world_size, 48)
        result = stepper.run(plan, scores[plan.queries])
        parameters = dict(engine.module.model.named_parameters())
        if zero_stage:
            grads = {key: safe_get_full_grad(each) for key, each in parameters.items()}
        else:
            grads = {key: each.grad for key, each in parameters.items() if each.grad is not None}
        found[name] = (
            {key: each.clone().numpy() for key, each in grads.items() if each is not None},
            result.loss,
            result.recomputed_tokens,
            [len(share.micro_batches) for share in plan.passage_shares],
        )
    dist.barrier()
    dist.destroy_process_group()
    return found


@pytest.fixture(scope="module")
def token_folder(tiny_encoder, tmp_path_factory):
    from distill.encoder import load_model
    from distill.settings import StudentSettings
    from distill.tokens import write_tokens

    folder = tmp_path_factory.mktemp("tokens")
    tokenizer = load_model(StudentSettings(model=tiny_encoder), "cpu").tokenizer
    queries, passages, _, _ = problem()
    write_tokens(folder / "queries", queries, tokenizer, 32)
    write_tokens(folder / "passages", passages, tokenizer, 48)
    return folder


@pytest.fixture(scope="module")
def expected(tiny_encoder, token_folder):
    """Loss and gradients of one process, without deduplication, micro-batches, ranks or DeepSpeed."""
    import torch

    from distill.encoder import load_model
    from distill.settings import StudentSettings
    from distill.step import Student
    from distill.tokens import TokenFile

    _, _, lists, scores = problem()
    found = {}
    for name, mode in MODES.items():
        model = load_model(StudentSettings(model=tiny_encoder), "cpu")
        student = Student(model, "cpu", torch.float32)
        queries, passages = (
            student(*TokenFile(token_folder / name).padded(np.arange(count), model.tokenizer.pad_token_id))
            for name, count in (("queries", QUERIES), ("passages", CORPUS))
        )
        loss = reference_loss(queries.double(), passages.double(), lists, scores, mode)
        loss.backward()
        grads = {key: each.grad.numpy() for key, each in model.named_parameters() if each.grad is not None}
        found[name] = (grads, float(loss.detach()))
    return found


@pytest.mark.parametrize(
    ("world_size", "zero_stage", "activation_tokens"),
    [(1, 0, 1 << 20), (2, 0, 0), (2, 0, 120), (3, 0, 1 << 20), (2, 1, 120), (2, 2, 0), (3, 3, 0)],
)
def test_gradient_equals_one_process_for_any_world_size(
    world_size, zero_stage, activation_tokens, tiny_encoder, token_folder, expected
):
    modes = MODES if zero_stage == 0 else {"both": MODES["both"]}
    arguments = (tiny_encoder, str(token_folder), modes, zero_stage, activation_tokens)
    ranks = on_ranks(gradients, world_size, *arguments)
    for name in modes:
        reference, loss = expected[name]
        scale = max(np.abs(each).max() for each in reference.values())
        for grads, found_loss, _, _ in (rank[name] for rank in ranks):
            assert found_loss == pytest.approx(loss, rel=1e-5)
            for key, wanted in reference.items():
                got = grads.get(key, np.zeros_like(wanted))
                assert np.abs(got - wanted).max() <= 1e-5 * scale, (name, key)
    recomputed = sum(rank["both"][2] for rank in ranks)
    assert (recomputed == 0) == (activation_tokens == 1 << 20)


def test_shares_of_the_problem_are_uneven(token_folder):
    from distill.batches import plan_step
    from distill.tokens import TokenFile

    _, _, lists, _ = problem()
    lengths = [TokenFile(token_folder / name).lengths for name in ("queries", "passages")]
    plan = plan_step(np.arange(QUERIES), lists, *lengths, 3, 48)
    assert len({share.size for share in plan.passage_shares}) > 1 or len(plan.passages) % 3
