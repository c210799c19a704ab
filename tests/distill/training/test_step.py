"""The contract of the gradient: any number of ranks computes what one process holding the whole batch computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.distill.ranks import on_ranks

QUERIES, LENGTH, CORPUS, BUDGET = 12, 5, 17, 48
EVERYTHING, SOME, NOTHING = 1 << 30, 1 << 17, 0  # bytes of activations that are kept
MODES = {
    "kl": {"contrastive_weight": 0.0},
    "contrastive": {"loss": "infonce", "contrastive_temperature": 0.05},
    "sharp": {"contrastive_weight": 0.1, "contrastive_temperature": 0.01},
    "both": {"contrastive_weight": 0.1, "contrastive_temperature": 0.05},
    "counted": {"contrastive_weight": 0.1, "contrastive_temperature": 0.05, "weight_by_count": True},
    "cut": {"contrastive_weight": 0.1, "contrastive_temperature": 0.05, "matryoshka": (8, 20)},
}


@dataclass(frozen=True)
class Case:
    """One step: its loss, ZeRO stage, what is kept, and at which fraction of its norm the gradient is clipped."""

    mode: str = "both"
    zero_stage: int = 0
    kept: int = EVERYTHING
    clip: float | None = None
    dtype: str = "float32"
    packed: bool = False


CASES = {
    1: [Case(mode) for mode in MODES]
    + [Case(kept=NOTHING), Case(kept=SOME), Case(clip=0.3), Case(kept=SOME, packed=True)]
    + [Case("sharp", kept=kept, dtype="bfloat16") for kept in (NOTHING, SOME)],
    2: [Case(mode, kept=SOME) for mode in MODES]
    + [Case(zero_stage=stage, kept=SOME, clip=0.3) for stage in (0, 1, 2, 3)]
    + [Case(kept=NOTHING), Case(kept=EVERYTHING), Case(kept=SOME, packed=True)],
    3: [Case(mode, kept=NOTHING) for mode in ("kl", "counted")]
    + [Case("counted", zero_stage=stage, kept=SOME) for stage in (1, 2, 3)],
    4: [Case("both", kept=EVERYTHING), Case("counted", kept=SOME, clip=0.3)]
    + [Case(zero_stage=stage, kept=SOME, clip=0.3) for stage in (2, 3)],
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

    if mode.get("matryoshka"):
        whole = {key: value for key, value in mode.items() if key != "matryoshka"}
        sizes = (*mode["matryoshka"], query.shape[1])
        parts = [
            [each[:, :size] / each[:, :size].norm(dim=1, keepdim=True) for each in (query, passage)] for size in sizes
        ]
        return sum(reference_loss(*part, lists, scores, whole) for part in parts) / len(sizes)
    kl_weight, weight = (0.0, 1.0) if mode.get("loss") == "infonce" else (1.0, mode["contrastive_weight"])
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


def run_cases(rank, world_size, encoder, folder, cases):
    """By case: the gradient that the optimizer got (a tenth of it is Adam's first moment), and what was reported."""
    import torch
    import torch.distributed as dist

    from distill.activations.activations import Activations
    from distill.encoders.compute import cpu_attention, packed_attention
    from distill.encoders.compute.choose import choose_for_training
    from distill.encoders.compute.cpu_linears import JoinedLayers
    from distill.encoders.device import has_bfloat16_linear
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.encoders.tokens import TokenFile
    from distill.losses.batch import LossSettings
    from distill.settings.encoders import StudentSettings
    from distill.settings.training import TrainingSettings
    from distill.training.batches import plan_step
    from distill.training.checkpoints import gathered
    from distill.training.deepspeed_engine import start_engine, step_optimizer
    from distill.training.process_group import join_ranks
    from distill.training.step import Stepper
    from tests.distill.collectives import Collectives

    join_ranks("cpu")
    _, _, lists, scores = problem()
    tokens = [TokenFile(Path(folder) / name) for name in ("queries", "passages")]
    found = []
    for case, limit in cases:
        model = load_model(StudentSettings(model=encoder), "cpu")
        training = TrainingSettings(gradient_clip=limit, zero_stage=case.zero_stage, packed=case.packed)
        student = EncoderModule(model, "cpu", getattr(torch, case.dtype))
        layout = choose_for_training(student, tokens[1], model.tokenizer.pad_token_id, training)
        assert layout.packed == case.packed
        assert student.attention == (packed_attention if case.packed else cpu_attention).NAME
        joins = case.dtype == "bfloat16" and case.zero_stage < 3 and has_bfloat16_linear()
        assert isinstance(student.layers, JoinedLayers) == joins
        engine = start_engine(student, training, world_size)
        activations = Activations(engine, student, case.kept, graphs=case.zero_stage < 3)
        stepper = Stepper(engine, *tokens, LossSettings(**MODES[case.mode]), activations, layout)
        lengths = [each.lengths for each in tokens]
        plan = plan_step(np.arange(QUERIES), lists, *lengths, world_size, BUDGET, layout.packed)
        embeddings = _embeddings(student, tokens, plan, layout) if world_size == 1 else None
        with Collectives() as collectives:
            result = stepper.run(stepper.prepare(plan, scores[plan.queries]))
        norm = step_optimizer(engine)
        gradient = {
            name.removeprefix("model."): 10 * parts["exp_avg"].cpu().numpy()
            for name, _, parts in gathered(engine) if name.startswith("model.")
        }  # fmt: skip
        found.append({
            "gradient": gradient, "norm": norm, "loss": result.loss, "recomputed": result.recomputed_tokens,
            "reused": result.reused, "bytes": activations.step_bytes, "collectives": collectives.calls,
            "embeddings": embeddings,
        })  # fmt: skip
    dist.barrier()
    dist.destroy_process_group()
    return found


def _embeddings(student, tokens, plan, layout):
    """What one rank's micro-batches give, in float32, by row of the queries and of the corpus."""
    import torch

    found = []
    for file, rows, shares in zip(
        tokens, (plan.queries, plan.passages), (plan.query_shares, plan.passage_shares), strict=True
    ):
        vectors = np.zeros((len(file), 32), np.float32)
        with torch.no_grad():
            for positions in shares[0].micro_batches:
                vectors[rows[positions]] = student(**layout.features(file, rows[positions])).numpy()
        found.append(vectors)
    return found


@pytest.fixture(scope="module")
def token_folder(tiny_encoder, tmp_path_factory):
    from distill.encoders.loading import load_model
    from distill.encoders.reading import Reading
    from distill.encoders.tokens import write_tokens
    from distill.settings.encoders import StudentSettings

    folder = tmp_path_factory.mktemp("tokens")
    model = load_model(StudentSettings(model=tiny_encoder), "cpu")
    queries, passages, _, _ = problem()
    write_tokens(folder / "queries", queries, Reading(model, "query", 32).token_ids)
    write_tokens(folder / "passages", passages, Reading(model, "document", 48).token_ids)
    return folder


@pytest.fixture(scope="module")
def expected(tiny_encoder, token_folder):
    """Loss and gradients of one process, without deduplication, micro-batches, ranks or DeepSpeed."""
    import torch

    from distill.encoders.layout import Layout
    from distill.encoders.loading import load_model
    from distill.encoders.module import EncoderModule
    from distill.encoders.tokens import TokenFile
    from distill.settings.encoders import StudentSettings

    _, _, lists, scores = problem()
    found = {}
    for name, mode in MODES.items():
        model = load_model(StudentSettings(model=tiny_encoder), "cpu")
        student = EncoderModule(model, "cpu", torch.float32)
        layout = Layout(model.tokenizer.pad_token_id)
        queries, passages = (
            student(**layout.features(TokenFile(token_folder / name), np.arange(count)))
            for name, count in (("queries", QUERIES), ("passages", CORPUS))
        )
        loss = reference_loss(queries.double(), passages.double(), lists, scores, mode)
        loss.backward()
        grads = {key: each.grad.numpy() for key, each in model.named_parameters() if each.grad is not None}
        found[name] = (grads, float(loss.detach()))
    return found


@pytest.fixture(scope="module", params=[1, 2, 3, 4])
def steps(request, tiny_encoder, token_folder, expected):
    """All cases of a world size, done by one set of ranks: (world size, [(case, [what each rank reports])])."""
    cases = []
    for case in CASES[request.param]:
        norm = np.sqrt(sum(float(np.square(each).sum()) for each in expected[case.mode][0].values()))
        cases.append((case, case.clip * norm if case.clip else 1e9))
    ranks = on_ranks(run_cases, request.param, tiny_encoder, str(token_folder), cases)
    return request.param, [(case, [rank[index] for rank in ranks]) for index, (case, _) in enumerate(cases)]


def test_gradient_equals_one_process_for_any_world_size(steps, expected):
    """Every loss, ZeRO stage, amount of recomputation; several micro-batches; clipped at 0.3 of its norm and not."""
    for case, ranks in steps[1]:
        if case.dtype != "float32":
            continue
        reference, loss = expected[case.mode]
        shrink = case.clip or 1.0
        scale = max(np.abs(each).max() for each in reference.values()) * shrink
        norm = np.sqrt(sum(float(np.square(each).sum()) for each in reference.values()))
        for rank in ranks:
            assert rank["loss"] == pytest.approx(loss, rel=1e-5), case
            assert rank["norm"] == pytest.approx(norm, rel=1e-5), case
            for key, wanted in reference.items():
                got = rank["gradient"].get(key, np.zeros_like(wanted))
                assert np.abs(got - shrink * wanted).max() <= 1e-5 * scale, (case, key)


def test_losses_are_exact_at_the_sharpest_temperature_under_a_bfloat16_encoder(steps, expected):
    """Scores and log-softmax are float32: on the embeddings that the encoder gave, the loss is float64's to 1e-5."""
    import torch

    _, _, lists, scores = problem()
    for case, ranks in steps[1]:
        if case.dtype == "bfloat16":
            vectors = [torch.from_numpy(each).double() for each in ranks[0]["embeddings"]]
            exact = float(reference_loss(*vectors, lists, scores, MODES[case.mode]))
            assert ranks[0]["loss"] == pytest.approx(exact, rel=1e-5)
            assert abs(exact / expected[case.mode][1] - 1) > 1e-7, "the encoder did compute in bfloat16"


def test_what_does_not_fit_is_recomputed_and_nothing_else(steps):
    for case, ranks in steps[1]:
        recomputed, reused = ([rank[key] for rank in ranks] for key in ("recomputed", "reused"))
        assert (sum(recomputed) == 0) == (case.kept == EVERYTHING), case
        assert (max(reused) > 0) == (case.kept == SOME and not case.packed), case


def test_between_steps_stays_the_memory_of_graphs_and_of_one_more(steps):
    """What is reused has a place of its own; under ZeRO 3 there are no graphs to come back to."""
    world_size, cases = steps
    for case, ranks in cases:
        assert all((rank["bytes"] > 10_000) == (case.zero_stage < 3) for rank in ranks), case
    if world_size in (1, 2):  # they have one kind of step with everything, something and nothing kept
        for number in range(world_size):
            found = {case.kept: ranks[number]["bytes"] for case, ranks in cases if case == Case(kept=case.kept)}
            assert found[SOME] == pytest.approx(found[NOTHING], rel=0.01)
            assert found[EVERYTHING] > 2 * found[NOTHING]


def test_what_is_kept_changes_no_bit_of_the_gradient(steps):
    """So that a training that is continued on another machine goes on as it would have."""
    by_kind: dict[Case, list] = {}
    for case, ranks in steps[1]:
        by_kind.setdefault(replace(case, kept=0), []).append(ranks[0]["gradient"])
    pairs = [each for each in by_kind.values() if len(each) > 1]
    assert pairs or steps[0] not in (1, 2)
    for first, *others in pairs:
        assert all(np.array_equal(first[key], other[key]) for other in others for key in first)


def test_shares_are_uneven_and_ranks_have_several_micro_batches(token_folder):
    from distill.encoders.tokens import TokenFile
    from distill.training.batches import plan_step

    _, _, lists, _ = problem()
    lengths = [TokenFile(token_folder / name).lengths for name in ("queries", "passages")]
    plans = [plan_step(np.arange(QUERIES), lists, *lengths, world, BUDGET) for world in (2, 3, 4)]
    assert all(min(len(share.micro_batches) for share in plan.passage_shares) > 1 for plan in plans)
    assert any(len({share.size for share in plan.passage_shares}) > 1 for plan in plans)
    assert any(len({len(share.micro_batches) for share in plan.passage_shares}) > 1 for plan in plans)


def test_a_step_has_one_gather_one_reduce_scatter_and_one_reduction_of_parameters(steps):
    """Queries are not gathered: the loss rows of a query live with its owner. ZeRO 3 gathers parameters besides."""
    world_size, cases = steps
    for case, ranks in cases:
        for rank in ranks:
            calls = rank["collectives"]
            parameters = sum(each.size for each in rank["gradient"].values())
            if world_size == 1:
                assert [size for _, size in calls if size < parameters // 2] == [], "one rank has nobody to tell"
            elif case.zero_stage < 3:
                sums = [call for call in calls if call == ("allreduce_", 4)]
                reductions = [name for name, size in calls if size > parameters // 2]
                embeddings = sorted(name for name, size in calls if 4 < size <= parameters // 2)
                assert embeddings == ["_allgather_base_", "_reduce_scatter_base_"], case
                assert len(reductions) == 1 and len(sums) == 1 and len(calls) == 4, (case, calls)
            else:
                assert sum("reduce" in name and size > parameters // 2 for name, size in calls) == 1, (case, calls)


def test_ranks_never_differ_in_their_collectives(steps):
    """Uneven shares and padded micro-batches included: who waits for a call that nobody makes waits for ever."""
    for case, ranks in steps[1]:
        sequences = [[name for name, _ in rank["collectives"]] for rank in ranks]
        assert all(each == sequences[0] for each in sequences), case
