from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from cluster.errors import InputError
from cluster.files.ownership import owned
from cluster.settings import PoolSettings
from cluster.watch.progress import Progress
from cluster.watch.status import status
from distill.encoders.loading import resolve_model
from distill.evaluation.comparison import largest_changes
from distill.evaluation.evaluate import LOCK, evaluate, evaluate_collection
from distill.evaluation.judged import read
from distill.evaluation.metrics import EvaluationResult, metrics_per_query, trec_run
from distill.evaluation.stage import build
from distill.settings.encoders import EncoderSettings, StudentSettings
from distill.settings.evaluation import EvaluationSettings

SCIFACT = Path(__file__).parents[3] / "shared" / "data" / "scifact"
QUIET = Progress(quiet=True)


def read_run(path: Path) -> dict[str, dict[str, float]]:
    with path.open() as file:
        return pytrec_eval.parse_run(file)


def by_pytrec_eval(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The three metrics per query. MRR@10 is the reciprocal rank, or nothing below rank 10."""
    evaluator = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.100", "recip_rank"})
    return {
        query: {
            "ndcg@10": values["ndcg_cut_10"],
            "recall@100": values["recall_100"],
            "mrr@10": values["recip_rank"] if values["recip_rank"] >= 0.1 else 0.0,
        }
        for query, values in evaluator.evaluate(run).items()
    }


def check_against_pytrec_eval(folder: Path, output: Path, metrics: dict) -> None:
    expected = by_pytrec_eval(read(folder).qrels, read_run(output / "run.trec"))
    written = {}
    for line in (output / "per_query.jsonl").read_text().splitlines():
        record = json.loads(line)
        written[record.pop("query_id")] = record
    assert written.keys() == expected.keys()
    for name in ("ndcg@10", "recall@100", "mrr@10"):
        assert metrics[name] == pytest.approx(np.mean([values[name] for values in expected.values()]), abs=1e-9)
        for query, values in expected.items():
            assert written[query][name] == pytest.approx(values[name], abs=1e-9)


@pytest.mark.skipif(not SCIFACT.is_dir(), reason="SciFact is not at ../shared/data/scifact")
@pytest.mark.slow
def test_minilm_on_scifact_gives_the_published_figure(tmp_path: Path):
    model = EncoderSettings(model="all-MiniLM-L6-v2", max_query_tokens=256, max_passage_tokens=256)
    metrics = evaluate(model, SCIFACT, "test", tmp_path, progress=QUIET)
    assert metrics["ndcg@10"] == pytest.approx(0.645, abs=0.003)
    assert (metrics["queries"], metrics["passages"]) == (300, 5183)
    check_against_pytrec_eval(SCIFACT, tmp_path, metrics)


def test_metrics_equal_those_of_pytrec_eval_on_the_written_run(tiny_encoder: str, hundred: Path, tmp_path: Path):
    metrics = evaluate(EncoderSettings(model=tiny_encoder), hundred, "test", tmp_path, progress=QUIET)
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics
    assert (metrics["queries"], metrics["passages"]) == (20, 100)
    assert 0 < metrics["ndcg@10"] < 1, "a tiny random model finds some judged passages, and not all"
    check_against_pytrec_eval(hundred, tmp_path, metrics)


def test_metrics_equal_the_textbook_formulas_with_graded_judgments():
    qrels = {"q": {"a": 2, "b": 1, "c": 1, "d": 0}, "nothing found": {"a": 1}}
    run = {"q": {"x": 0.9, "b": 0.8, "d": 0.7, "a": 0.6}, "nothing found": {}}
    values = metrics_per_query(qrels, run)
    gain = 1 / math.log2(3) + 2 / math.log2(5)
    ideal = 2 / math.log2(2) + 1 / math.log2(3) + 1 / math.log2(4)
    assert values["ndcg@10"]["q"] == pytest.approx(gain / ideal)
    assert values["recall@100"]["q"] == pytest.approx(2 / 3)
    assert values["mrr@10"]["q"] == pytest.approx(1 / 2)
    assert all(values[name]["nothing found"] == 0 for name in values)


def test_ids_and_tags_with_spaces_stay_one_word_of_a_run():
    run = {"first query": {"a b": 0.5, "c\td": 0.25, "e\u3000f": 0.125}, "100%": {"plain": 1.0}}
    written = trec_run(run, "my model").decode()
    assert [len(line.split()) for line in written.splitlines()] == [6, 6, 6, 6]
    assert pytrec_eval.parse_run(written.splitlines()) == {
        "first%20query": {"a%20b": 0.5, "c%09d": 0.25, "e%E3%80%80f": 0.125},
        "100%": {"plain": 1.0},
    }


def test_a_passage_that_is_the_query_itself_is_left_out_and_a_chance_id_is_not(tiny_encoder: str, tmp_path: Path):
    (tmp_path / "qrels").mkdir()
    passages = [
        {"_id": "same", "title": "", "text": "Salted herring  of Arlewick"},
        {"_id": "chance", "title": "", "text": "a stone granary in Bramsholt"},
        {"_id": "other", "title": "", "text": "polished slate of Quarrow"},
    ]
    queries = [{"_id": "same", "text": "salted herring of arlewick"}, {"_id": "chance", "text": "stone granary"}]
    for name, rows in (("corpus", passages), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nsame\tother\t1\nchance\tchance\t1\n")
    evaluate(EncoderSettings(model=tiny_encoder), tmp_path, "test", tmp_path / "out", progress=QUIET)
    run = read_run(tmp_path / "out" / "run.trec")
    assert set(run["same"]) == {"chance", "other"}
    assert set(run["chance"]) == {"same", "chance", "other"}


def test_of_two_evaluations_into_one_folder_all_files_are_those_of_one(
    tiny_encoder: str, hundred: Path, tmp_path: Path
):
    """The second waits for the first to write its files."""
    output, done = tmp_path / "out", threading.Event()

    def run() -> None:
        evaluate(EncoderSettings(model=tiny_encoder), hundred, "test", output, progress=QUIET)
        done.set()

    with owned(output / LOCK):
        second = threading.Thread(target=run)
        second.start()
        assert not done.wait(10)
        assert [file.name for file in output.iterdir()] == [LOCK]
    second.join(30)
    assert sorted(file.name for file in output.iterdir()) == ["metrics.json", LOCK, "per_query.jsonl", "run.trec"]


def test_nothing_is_written_for_a_bad_collection_or_a_model_that_is_not_there(
    tiny_encoder: str, hundred: Path, tmp_path: Path
):
    output = tmp_path / "out"
    with pytest.raises(InputError, match="no such file"):
        evaluate(EncoderSettings(model=tiny_encoder), hundred, "train", output, progress=QUIET)
    with pytest.raises(InputError, match="no such folder"):
        evaluate(EncoderSettings(model="/nowhere/model"), hundred, "test", output, progress=QUIET)
    assert not output.exists()


def test_a_student_equal_to_its_base_is_called_no_better_and_the_base_is_recommended(
    run: Callable, tiny_encoder: str, hundred: Path
):
    opened = run()
    base = StudentSettings(model=tiny_encoder)
    record = build(opened, EvaluationSettings(), hundred, base, tiny_encoder)
    assert record["recommended"] == "base"
    assert "no better" in record["verdict"]
    assert record["difference"]["ties"] == record["queries"] == 20
    assert record["base"] == record["student"]
    stored = json.loads(opened.storage.get("evaluation/metrics.json"))
    assert all(record[key] == value for key, value in stored.items())
    assert opened.storage.get("evaluation/base.trec").count(b"\n") == 20 * 100
    assert json.loads(opened.storage.get("evaluation/examples.json")) == {"wins": [], "losses": []}
    again = build(opened, EvaluationSettings(), hundred, base, tiny_encoder)
    assert again == record
    with pytest.raises(InputError, match="overwrite evaluation"):
        build(opened, EvaluationSettings(max_queries=5), hundred, base, tiny_encoder)


@pytest.mark.cluster
@pytest.mark.parametrize("dimensions", [None, 64])
def test_workers_of_a_pool_give_the_run_and_the_metrics_of_one_process(
    run: Callable, hundred: Path, dimensions: int | None
):
    model = resolve_model("all-MiniLM-L6-v2")
    base = StudentSettings(model=model, dtype="float32")
    records, runs = [], []
    for name, pool in (("process", None), ("pool", PoolSettings(workers=2))):
        opened = run(name)
        records.append(build(opened, EvaluationSettings(dimensions=dimensions, pool=pool), hundred, base, model))
        written = opened.storage.get("evaluation/student.trec").decode()
        runs.append(pytrec_eval.parse_run(written.splitlines()))
        other = EvaluationSettings(dimensions=dimensions, pool=PoolSettings(workers=1))
        assert build(opened, other, hundred, base, model) == records[-1], "the pool is not part of the fingerprint"
    assert records[0]["base"] == pytest.approx(records[1]["base"])
    assert records[0]["base"]["ndcg@10"] > 0.5
    for query, expected in runs[0].items():
        assert runs[1][query] == pytest.approx(expected, abs=1e-5)
    rows = {table["table"]: table["rows"] for table in status(opened.storage)}
    assert rows["judged/base/passages"] == rows["judged/passages"] == 100
    assert rows["judged/student/queries"] == rows["judged/queries"] == 20


def test_the_largest_changes_come_first_with_the_passages_of_both_models(tiny_encoder: str, hundred: Path):
    collection = read(hundred)
    result = evaluate_collection(EncoderSettings(model=tiny_encoder), collection, depth=100, title="", progress=QUIET)
    perfect_run = {query: dict.fromkeys(grades, 1.0) for query, grades in collection.qrels.items()}
    perfect = EvaluationResult({}, metrics_per_query(collection.qrels, perfect_run), perfect_run)
    changes = largest_changes(collection, result, perfect)
    gains = [change["student"] - change["base"] for change in changes["wins"]]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 0
    assert changes["losses"] == []
    assert changes["wins"][0]["student_passages"][0]["grade"] == 1
    assert len(changes["wins"][0]["base_passages"]) == 3
    opposite = largest_changes(collection, perfect, result)
    assert opposite["wins"] == []
    losses = [change["student"] - change["base"] for change in opposite["losses"]]
    assert losses == [-gain for gain in gains]
