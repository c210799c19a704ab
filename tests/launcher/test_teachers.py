"""Teachers judged on the hundred passages, against metrics and rankings that are made by hand or by pytrec_eval."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
import yaml
from typer.testing import CliRunner

from cluster.errors import InputError
from cluster.watch.progress import Progress
from distill.encoders.encoder import Encoder
from distill.evaluation.judged import JudgedCollection, read
from distill.lists.ensemble import Ensemble
from distill.retrieval.bm25 import Bm25Index
from distill.settings.encoders import EncoderSettings
from launcher.cli import app
from launcher.judge_teachers import BASE, ENSEMBLE, FUSED, Judgement, judge, open_recipe
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe
from tests.pipeline import recipe_text

QUIET = Progress(quiet=True)
DEPTH = 12


@pytest.fixture(scope="module")
def recipe_file(hundred: Path, tiny_encoder: str, tiny_reranker: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recipe of the tests' run, with a reranker, a bi-encoder of its own and the base itself as teachers."""
    folder = tmp_path_factory.mktemp("recipe")
    sections = yaml.safe_load(recipe_text(hundred, tiny_encoder, folder / "run"))
    sections["teachers"] = {
        "bm25": {"kind": "bm25", "weight": 0.05},
        "reranker": {"kind": "cross_encoder", "model": tiny_reranker, "max_tokens": 64, "dtype": "float32"},
        "base": {"kind": "bi_encoder"},
        "short": {"kind": "bi_encoder", "encoder": {"model": tiny_encoder, "max_passage_tokens": 8}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(sections, sort_keys=False))
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> Recipe:
    return load_recipe(str(recipe_file))


@pytest.fixture(scope="module")
def judgement(recipe: Recipe, hundred: Path) -> Judgement:
    return judge(recipe, hundred, depth=DEPTH, progress=QUIET)


def texts_of(collection: JudgedCollection) -> list[str]:
    return [f"{title} {text}" for title, text in zip(collection.titles, collection.texts, strict=True)]


def base_scores(recipe: Recipe, collection: JudgedCollection) -> np.ndarray:
    encoder = Encoder(recipe.student_encoder())
    return encoder.encode_queries(collection.queries) @ encoder.encode_passages(collection.titles, collection.texts).T


def candidates_by_hand(dense: np.ndarray, words: np.ndarray) -> list[int]:
    """The first passages of two rankings of one query, fused by 1 / (60 + rank)."""
    gains: dict[int, float] = {}
    for scores in (dense, words):
        ranking = [row for row in np.argsort(-scores, kind="stable") if scores is dense or scores[row] > 0]
        for rank, row in enumerate(ranking[: DEPTH + 1], start=1):
            gains[int(row)] = gains.get(int(row), 0.0) + 1 / (60 + rank)
    return sorted(gains, key=lambda row: (-np.float64(gains[row]), row))[:DEPTH]


def ndcg_by_pytrec_eval(collection: JudgedCollection, rankings: list[list[tuple[int, float]]]) -> float:
    run = {
        query: {collection.passage_ids[row]: float(score) for row, score in ranking}
        for query, ranking in zip(collection.query_ids, rankings, strict=True)
    }
    values = pytrec_eval.RelevanceEvaluator(collection.qrels, {"ndcg_cut.10"}).evaluate(run)
    return float(np.mean([values[query]["ndcg_cut_10"] for query in collection.query_ids]))


def test_every_teacher_reranks_the_same_candidates_and_has_the_metric_of_pytrec_eval(
    judgement: Judgement, recipe: Recipe, hundred: Path, tiny_reranker: str
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    collection = read(hundred)
    dense, index = base_scores(recipe, collection), Bm25Index([texts_of(collection)])
    words = np.stack([index.score(query, np.arange(100)) for query in collection.queries])
    tokenizer = AutoTokenizer.from_pretrained(tiny_reranker)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_reranker).eval()
    short = Encoder(EncoderSettings(model=recipe.student.model, max_passage_tokens=8))
    short_scores = (
        short.encode_queries(collection.queries) @ short.encode_passages(collection.titles, collection.texts).T
    )
    rankings: dict[str, list[list[tuple[int, float]]]] = {}
    for number, query in enumerate(collection.queries):
        rows = candidates_by_hand(dense[number], words[number])
        passages = [texts_of(collection)[row] for row in rows]
        features = tokenizer(
            [query] * len(rows), passages, padding=True, truncation=True, max_length=64, return_tensors="pt"
        )
        with torch.no_grad():
            logits = model(**features).logits[:, 0].numpy()
        raw = {
            "bm25": words[number, rows], "reranker": logits,
            "base": dense[number, rows], "short": short_scores[number, rows],
        }  # fmt: skip
        raw[ENSEMBLE] = 0.05 * raw["bm25"] + raw["reranker"] + raw["base"] + raw["short"]
        raw[FUSED] = -np.arange(len(rows))
        for name, scores in raw.items():
            rankings.setdefault(name, []).append(list(zip(rows, scores.tolist(), strict=True)))
        rankings.setdefault(BASE, []).append([(row, float(dense[number, row])) for row in range(100)])
        grades = collection.qrels[collection.query_ids[number]]
        ideal = [(row, grades.get(collection.passage_ids[row], 0)) for row in rows]
        rankings.setdefault("ideal", []).append(ideal)
    assert [row.name for row in judgement.rows] == [BASE, FUSED, "bm25", "reranker", "base", "short", ENSEMBLE]
    for row in judgement.rows:
        assert row.ndcg == pytest.approx(ndcg_by_pytrec_eval(collection, rankings[row.name]), abs=1e-6), row.name
    assert judgement.ideal == pytest.approx(ndcg_by_pytrec_eval(collection, rankings["ideal"]))
    assert len({round(row.ndcg, 6) for row in judgement.rows}) > 3, "the rankings differ, so this can fail"


def test_intervals_are_about_the_difference_to_the_base(judgement: Judgement) -> None:
    base = judgement.rows[0]
    assert base.difference is None
    for row in judgement.rows[1:]:
        assert row.difference is not None
        assert row.difference.mean == pytest.approx(row.ndcg - base.ndcg)
        assert row.difference.low <= row.difference.mean <= row.difference.high
        assert row.difference.wins + row.difference.losses + row.difference.ties == judgement.queries == 20
    timed = [row.name for row in judgement.rows if row.seconds is not None]
    assert timed == ["bm25", "reranker", "base", "short"]


def test_the_ensemble_of_a_run_is_taken_and_without_one_that_of_the_recipe(recipe: Recipe, hundred: Path) -> None:
    two = recipe.model_copy(update={"teachers": {name: recipe.teachers[name] for name in ("bm25", "base")}})
    alone = judge(two, hundred, depth=DEPTH, queries=10, ensemble=Ensemble((1.0, 0.0)), progress=QUIET)
    assert alone.queries == 10
    of_row = {row.name: row.ndcg for row in alone.rows}
    assert of_row[ENSEMBLE] == of_row["bm25"]
    learnt = load_recipe_with(two, scale="zscore", weights="learnt")
    (note,) = judge(learnt, hundred, depth=DEPTH, queries=10, progress=QUIET).notes
    assert "has the given weights here" in note


def load_recipe_with(recipe: Recipe, **ensemble: str) -> Recipe:
    return Recipe.model_validate(recipe.model_dump() | {"ensemble": ensemble})


def test_a_workdir_is_read_finished_or_not_and_what_is_neither_is_refused(
    recipe: Recipe, recipe_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert open_recipe(str(tmp_path)) == (recipe, None)
    assert open_recipe(str(recipe_file)) == (recipe, None)
    (tmp_path / "ensemble").mkdir()
    record = {"teachers": list(recipe.teachers), "ensemble": Ensemble((1.0, 2.0, 3.0, 4.0), "rrf").record()}
    (tmp_path / "ensemble" / "record.json").write_text(json.dumps(record))
    assert open_recipe(str(tmp_path))[1] == Ensemble((1.0, 2.0, 3.0, 4.0), "rrf")
    with pytest.raises(InputError, match="--set changes a recipe file"):
        open_recipe(str(tmp_path), ["student.model=x"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no run"):
        open_recipe(str(tmp_path / "empty"))
    with pytest.raises(InputError, match="there is no recipe"):
        open_recipe(str(tmp_path / "nothing.yaml"))


def test_the_command_prints_one_table_and_writes_nothing(recipe_file: Path, hundred: Path) -> None:
    before = sorted(recipe_file.parent.rglob("*"))
    words = ["teachers", str(recipe_file), "--dataset", str(hundred), "--depth", "10", "--queries", "8"]
    done = CliRunner().invoke(app, words, env={"COLUMNS": "160", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    lines = {line.split("  ")[0]: line for line in done.output.splitlines()}
    for name in (BASE, FUSED, "bm25", "reranker", "base", "short", ENSEMBLE):
        figure = next(float(word) for word in lines[name].removeprefix(name).split())
        assert 0 <= figure <= 1
        assert math.isfinite(figure)
    assert "8 judged queries over 100 passages" in done.output
    assert sorted(recipe_file.parent.rglob("*")) == before
