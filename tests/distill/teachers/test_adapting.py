"""A teacher that is made in the run: it learns the corpus, ranks agree, and one that is worse is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.run import Run
from cluster.schemas import CANDIDATES, JUDGED_QUERIES, SCORES
from cluster.tables.table import Table
from distill.lists.build import Scale, split_of
from distill.lists.ensemble import Ensemble, ranges_of
from distill.lists.ensemble_reader import EnsembleReader
from distill.lists.relevance import Relevance
from distill.settings.adapting import AdaptingSettings
from distill.settings.encoders import EncoderSettings
from distill.settings.ensemble import EnsembleSettings
from distill.settings.lists import ListSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers import scores
from distill.teachers.adapting import stage
from distill.teachers.adapting.data import SCORED, collect, make_list
from distill.teachers.adapting.job import AdaptingJob
from distill.teachers.adapting.judge import in_words, with_others
from tests.corpus import ASPECTS, PLACES
from tests.corpus import QUERIES as TEMPLATES
from tests.distill.conftest import open_run
from tests.distill.ranks import on_ranks
from tests.distill.run_tables import write_passages, write_table
from tests.models import save_reranker

OTHERS = {"bm25": TeacherSettings(kind="bm25")}
LIST = ListSettings(dev_fraction=0.1, duplicate_similarity=None)
CANDIDATES_OF_QUERY = 20
TEXTS = [template.format(*place) for place in PLACES for template in TEMPLATES]


@pytest.fixture(scope="module")
def tiny_reranker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random reranker that ranks sources as chance does, 0.17 by mean reciprocal rank.

    All sources say the same of their places, so random weights rank them all well or all badly: 0.05 to 0.98.
    """
    return str(save_reranker(tmp_path_factory.mktemp("reranker"), seed=3))


def adapted(model: str, **adapt) -> TeacherSettings:
    settings = {
        "list_length": 8, "queries_per_step": 8, "epochs": 5, "learning_rate": 2e-3, "held_out_fraction": 0.35,
        "micro_batch_tokens": 2048, "cpus_per_rank": 1, "ranks": 1, "source_margin": 0.5,
    } | adapt  # fmt: skip
    return TeacherSettings(
        kind="adapted", model=model, max_tokens=96, dtype="float32", adapt=AdaptingSettings(**settings)
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Run]:
    """A run of the hundred passages, five queries for each that says what a place is known for, and a weak teacher.

    The other candidates tell other things. So what makes a source is in its words, and can be learnt from few lists.
    """
    generator = np.random.default_rng(0)
    candidates, rows = [], []
    others = np.flatnonzero(np.arange(100) % 5 > 0)
    for number, text in enumerate(TEXTS):
        source = number - number % 5
        found = generator.permutation([source, *generator.choice(others, CANDIDATES_OF_QUERY - 1, replace=False)])
        names = [f"p{row // len(ASPECTS):02d}{row % len(ASPECTS)}" for row in found]
        candidates.append({
            "query_id": f"q{number}", "source_id": f"p{number // 5:02d}0", "query_type": "question",
            "text": text, "passage_ids": names, "passage_rows": found.tolist(), "fused": [0.0] * len(found),
            "second_source_id": None,
        })  # fmt: skip
        of_query = generator.normal(size=len(found)) + 1.0 * (found == source)
        rows.append({"query_id": f"q{number}", "passage_ids": names, "scores": of_query})
    with open_run(tmp_path) as run:
        write_passages(run)
        write_table(run, CANDIDATES, candidates)
        write_table(run, SCORES, rows, path="scores/bm25", files=2)
        yield run


def build(run: Run, teacher: TeacherSettings):
    return stage.build(
        run, "made", teacher, EncoderSettings(model="unused"), OTHERS, {"bm25": run.table("scores/bm25")},
        run.table("candidates"), run.table("passages"), EnsembleSettings(), LIST,
    )  # fmt: skip


def record_of(run: Run) -> dict:
    """What was made, and the judgement of it."""
    return {
        name: value
        for file in ("record", "judgement")
        for name, value in json.loads(run.storage.get(f"teachers/made/{file}.json")).items()
    }


def test_a_random_reranker_learns_to_rank_held_out_sources_and_then_scores_as_a_teacher(
    opened: Run, tiny_reranker: str, local_ray: None, monkeypatch: pytest.MonkeyPatch
):
    teacher = adapted(tiny_reranker).model_copy(update={"weight": 0.5})
    made = build(opened, teacher)
    record = record_of(opened)
    assert record["untrained"]["mrr"] < 0.35  # at random it is the mean of 1/1 … 1/20, 0.18
    assert record["adapted"]["mrr"] > record["untrained"]["mrr"] + 0.3
    assert record["kept"] == (record["together"]["mrr"] > record["others"]["mrr"])
    assert made is not None, record
    # finished is not done again
    monkeypatch.setattr(stage, "run_ranks", lambda *_, **__: pytest.fail("trained twice"))
    assert build(opened, teacher) == made
    teacher, weights = made
    table = scores.build(
        opened, "made", teacher, EncoderSettings(model="unused"), opened.table("candidates"), opened.table("passages"),
        None, {}, weights=weights,
    )  # fmt: skip
    held_out = [row for row in opened.table("candidates").read().to_pylist() if is_held_out(row["source_id"], 0.35)]
    by_query = {row["query_id"]: row["scores"] for row in table.read().to_pylist()}
    bm25 = {row["query_id"]: row["scores"] for row in opened.table("scores/bm25").read().to_pylist()}
    reciprocal: dict[str, list[float]] = {"others": [], "adapted": [], "together": []}
    for row in held_out:
        source = row["passage_ids"].index(row["source_id"])
        own, other = np.array(by_query[row["query_id"]]), np.array(bm25[row["query_id"]])
        for name, of_all in (("others", other), ("adapted", own), ("together", other + 0.5 * own)):
            reciprocal[name].append(1 / (1 + (of_all > of_all[source]).sum()))
    assert len(held_out) == record["held_out"]
    for name, values in reciprocal.items():
        assert np.mean(values) == pytest.approx(record[name]["mrr"], abs=1e-6), name


def is_held_out(source: str, fraction: float) -> bool:
    return split_of(f"passage {source}", fraction, 0) == "dev"


def test_a_teacher_that_ranks_sources_worse_than_the_others_is_left_out(
    opened: Run, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
):
    # ranks without Ray, which starts slowly
    monkeypatch.setattr(stage, "run_ranks", lambda run, job, *_, **__: on_ranks(train_rank, 1, [job.to_json()])[0][0])
    untrained = adapted(tiny_reranker, max_steps=1, learning_rate=1e-6).model_copy(update={"weight": 1e4})
    assert build(opened, untrained) is None
    record = record_of(opened)
    assert not record["kept"]
    assert record["difference"]["mean"] < 0
    assert "it is left out" in in_words(record)


def test_a_teacher_that_is_worse_alone_is_kept_where_it_mends_the_others(
    opened: Run, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
):
    """Its scores are put in the place of a training's: it knows one source in four, and nothing of the others."""

    def scores_alone(run, job, output, **_) -> dict:
        held_out = pq.read_table(output / "held_out.parquet").to_pylist()
        scored = []
        for number, row in enumerate(held_out):
            own = np.zeros(len(row["passage_rows"]), np.float32)
            own[row["source"]] = -0.01 if number % 4 else 5.0
            scored.append({"adapted": own, "untrained": None})
        pq.write_table(pa.Table.from_pylist(scored, SCORED), output / "scored.parquet")
        return {"steps": 1, "lists": 10, "weights": "digest"}

    monkeypatch.setattr(stage, "run_ranks", scores_alone)
    trusted = adapted(tiny_reranker)
    made = build(opened, trusted)
    record = record_of(opened)
    assert made is not None and record["kept"] and record["untrained"] is None
    assert record["adapted"]["mrr"] < record["others"]["mrr"] < record["together"]["mrr"]
    assert f"{record['together']['mrr']:.4f} with it and" in in_words(record)
    # the weight decides, and asks for no other training
    monkeypatch.setattr(stage, "run_ranks", lambda *_, **__: pytest.fail("trained twice"))
    assert build(opened, trusted.model_copy(update={"weight": 1e-9})) is None


@pytest.mark.parametrize(
    "settings",
    [
        EnsembleSettings(),
        EnsembleSettings(scale="zscore"),
        EnsembleSettings(scale="minmax"),
        EnsembleSettings(combine="rrf"),
    ],
    ids=["raw", "zscore", "minmax", "rrf"],
)
def test_it_is_judged_among_the_others_as_the_ensemble_will_count_it(settings: EnsembleSettings):
    generator = np.random.default_rng(1)
    queries = [[generator.normal(2, 3, 12), generator.normal(0, 0.1, 12), generator.normal(size=12)] for _ in range(9)]
    names, weights = ["a", "b", "made"], (1.0, 4.0, 0.5)
    ranges = ranges_of(settings, names, queries)
    every = Ensemble(weights, settings.combine, ranges)
    rest = Ensemble(weights[:2], settings.combine, ranges and ranges[:2])
    found = with_others([rest.scores(query[:2]) for query in queries], [query[2] for query in queries], 0.5, settings)
    for one, query in zip(found, queries, strict=True):
        np.testing.assert_allclose(one, every.scores(query), rtol=1e-12)
    constant = [np.full(12, 0.3) for _ in queries]
    if settings.scale != "none":
        others = [rest.scores(query[:2]) for query in queries]
        assert with_others(others, constant, 0.5, settings) == others


def test_a_run_that_judged_its_teacher_alone_goes_on_with_that_judgement(
    opened: Run, tiny_reranker: str, monkeypatch: pytest.MonkeyPatch
):
    alone = {"mrr": 0.5, "first": 0.25}
    of_before = {
        "steps": 3, "lists": 50, "weights": "digest", "held_out": 30, "others": alone, "adapted": alone,
        "untrained": None, "difference": {"mean": 0.0, "low": -0.1, "high": 0.1}, "kept": True,
    }  # fmt: skip
    monkeypatch.setattr(stage, "run_ranks", lambda *_, **__: of_before)
    assert build(opened, adapted(tiny_reranker)) is not None
    assert "0.5000 with it and 0.5000 with the other teachers" in in_words(of_before)


def collected(run: Run, adapt: AdaptingSettings, judged: Table | None = None):
    others = EnsembleReader([run.table("scores/bm25")], Ensemble((1.0,)))
    return collect(others, run.table("candidates"), run.table("passages"), LIST, adapt, Relevance(judged))


def test_no_list_holds_a_held_out_source_as_its_source(opened: Run):
    data = collected(opened, AdaptingSettings(list_length=8, held_out_fraction=0.05, source_margin=0.5))
    for row in data.lists.to_pylist():
        source = row["passage_rows"][0]
        assert row["text"] in TEXTS[source : source + 5]
        assert not is_held_out(f"p{source // 5:02d}{source % 5}", 0.1)  # the dev split is the larger share
        assert len(set(row["passage_rows"])) == 8
        assert row["targets"][0] > max(row["targets"][1:]) + 0.499
    for row in data.held_out.to_pylist():
        source = row["passage_rows"][row["source"]]
        assert row["text"] in TEXTS[source : source + 5]
        assert is_held_out(f"p{source // 5:02d}{source % 5}", 0.1)
    assert len(data.lists) + len(data.held_out) == 100


def test_all_that_is_relevant_to_a_judged_query_is_a_positive_of_its_list(opened: Run):
    candidates = {row["query_id"]: row for row in opened.table("candidates").read().to_pylist()}
    judged = []
    for number in range(0, 100, 5):
        query = candidates[f"q{number}"]
        other = next(one for one in query["passage_ids"] if one != query["source_id"])
        relevant = ["not found", query["source_id"], other]
        judged.append(
            {"query_id": query["query_id"], "query_type": "judged", "text": query["text"], "relevant_ids": relevant}
        )
    table = write_table(opened, JUDGED_QUERIES, judged)
    lists = {row["text"]: row for row in collected(opened, AdaptingSettings(list_length=8), table).lists.to_pylist()}
    found = 0
    for row in judged:
        if one := lists.get(row["text"]):
            ids = candidates[row["query_id"]]["passage_ids"]
            rows = dict(zip(ids, candidates[row["query_id"]]["passage_rows"], strict=True))
            assert one["passage_rows"][:2] == [rows[key] for key in row["relevant_ids"][1:]]
            assert one["targets"][0] == one["targets"][1] > max(one["targets"][2:])
            found += 1
    assert found > 10


def test_a_list_is_the_source_the_best_of_the_rest_and_a_draw_without_copies():
    values = np.linspace(0, 1, 20)
    copies = np.zeros(20, dtype=bool)
    copies[19] = True
    adapt = AdaptingSettings(list_length=8, source_margin=0.1)
    places, targets = make_list(values, [3], copies, Scale(0.0, 1.0, 0.0), adapt, number=7)
    assert places[0] == 3
    assert places[1:5].tolist() == [18, 17, 16, 15]
    assert set(places[5:].tolist()) <= set(range(15)) - {3}
    assert targets[0] == pytest.approx(values[18] + 0.1)
    np.testing.assert_allclose(targets[1:], values[places[1:]], rtol=1e-6)
    assert make_list(values[:7], [3], copies[:7], Scale(0.0, 1.0, 0.0), adapt, number=7) is None


def write_job(run: Run, folder: Path, model: str, **adapt) -> AdaptingJob:
    folder.mkdir(parents=True)
    job = AdaptingJob(adapted(model, **adapt), run.storage.url, str(folder))
    data = collected(run, job.adapt)
    pq.write_table(data.lists, folder / "lists.parquet")
    pq.write_table(data.held_out, folder / "held_out.parquet")
    return job


def train_rank(rank: int, world_size: int, jobs: list[str], stop_after: int = 0) -> list[dict]:
    import torch.distributed as dist

    from distill.teachers.adapting.trainer import train
    from distill.training.process_group import join_ranks
    from distill.training.stop import TrainingStopped, stop_file

    join_ranks("cpu")
    records = []
    for number, text in enumerate(jobs):
        job = AdaptingJob.from_json(text)

        def watch(record: dict, job: AdaptingJob = job, first: bool = number == 0) -> None:
            if first and record.get("step") == stop_after:
                stop_file(Path(job.output)).touch()

        try:
            records.append(train(job, watch))
        except TrainingStopped:
            records.append({"stopped": True})
            records.append(train(job, watch))
    dist.destroy_process_group()
    return records


def weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(folder / "model" / "model.safetensors")


def by_plain_torch(run: Run, job: AdaptingJob) -> tuple[float, dict[str, np.ndarray], dict[str, float]]:
    """With transformers and torch alone, list by list: the first loss, the last weights, every weight's steepest slope.

    The slope is the largest gradient of a weight that any step met.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    adapt = job.adapt
    tokenizer = AutoTokenizer.from_pretrained(job.teacher.model)
    model = AutoModelForSequenceClassification.from_pretrained(job.teacher.model).eval()
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": adapt.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    )
    passages = run.table("passages").read().to_pylist()
    lists = pq.read_table(Path(job.output) / "lists.parquet").to_pylist()
    first = None
    slopes = {name: 0.0 for name, _ in model.named_parameters()}
    for step in range(adapt.max_steps):
        order = np.random.default_rng([adapt.seed, 0]).permutation(len(lists))
        chosen = order[step * adapt.queries_per_step : (step + 1) * adapt.queries_per_step]
        total = 0.0
        for number in chosen.tolist():
            row = lists[number]
            texts = [f"{passages[n]['title']} {passages[n]['text']}" for n in row["passage_rows"]]
            features = tokenizer(
                [row["text"]] * len(texts), texts, truncation="only_second", max_length=96, padding=True,
                return_tensors="pt",
            )  # fmt: skip
            logits = model(**features).logits[:, 0].log_softmax(0)
            target = (torch.tensor(row["targets"]) / adapt.teacher_temperature).log_softmax(0)
            total = total + (target.exp() * (target - logits)).sum() / len(chosen)
        total.backward()
        first = first if first is not None else total.item()
        for name, weight in model.named_parameters():
            slopes[name] = max(slopes[name], weight.grad.abs().max().item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), adapt.gradient_clip)
        for group in optimizer.param_groups:
            group["lr"] = adapt.learning_rate * (1 - 0.9 * step / (adapt.max_steps - 1))
        optimizer.step()
        optimizer.zero_grad()
    return first, {name: weight.detach().numpy() for name, weight in model.state_dict().items()}, slopes


def test_one_rank_two_ranks_and_plain_torch_make_the_same_weights(opened: Run, tmp_path: Path, tiny_reranker: str):
    settings = {"max_steps": 4, "learning_rate": 3e-4, "warmup": 0.0, "micro_batch_tokens": 1200}
    one, two = (write_job(opened, tmp_path / name, tiny_reranker, **settings) for name in ("one", "two"))
    on_ranks(train_rank, 1, [one.to_json()])
    on_ranks(train_rank, 2, [two.to_json()])
    by_one, by_two = (pq.read_table(tmp_path / name / "scored.parquet").to_pydict() for name in ("one", "two"))
    assert len(by_one["adapted"]) == len(by_two["adapted"]) > 0
    for name, scored in by_one.items():
        np.testing.assert_allclose(np.array(scored), np.array(by_two[name]), atol=1e-4)
    loss, expected, slopes = by_plain_torch(opened, one)
    lines = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["loss"] == pytest.approx(loss, rel=1e-5)
    found = weights(tmp_path / "one")
    assert found.keys() == expected.keys()
    for name, weight in weights(tmp_path / "two").items():
        if name.endswith(("classifier.bias", "key.bias")):
            # A softmax, over a list or over keys, takes away what is added to all alike. So the gradient is rounding
            # alone, and Adam makes steps of it whose size depends on the number of threads.
            assert slopes[name] < 1e-6
            continue
        np.testing.assert_allclose(weight, found[name], atol=1e-5)
        np.testing.assert_allclose(weight, expected[name], atol=1e-5)


def test_a_training_that_was_stopped_continues_to_the_same_weights(opened: Run, tmp_path: Path, tiny_reranker: str):
    stopped, whole = (write_job(opened, tmp_path / name, tiny_reranker, max_steps=5) for name in ("stopped", "whole"))
    (records,) = on_ranks(train_rank, 1, [stopped.to_json(), whole.to_json()], 2)
    assert records[0] == {"stopped": True}
    steps = [json.loads(line)["step"] for line in (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5] and len({record["weights"] for record in records[1:]}) == 1
