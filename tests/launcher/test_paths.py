"""A path of a recipe means the same in every process; what is no path stays as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.paths import absolute_paths
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    for folder in ("models/tiny", "my corpus", "types", "beir"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("log.jsonl", "ids.txt", "scores.jsonl", "template.yaml"):
        (tmp_path / file).write_text("")
    (tmp_path / "recipe.yaml").write_text("""
name: relative
workdir: runs/relative
corpus: {path: my corpus, query_log: ./log.jsonl, judged_queries: {dataset: beir}, sources: {by: ids, file: ids.txt}}
generation: {types_folder: types}
student: {model: models/tiny}
retrieval:
  retrievers:
    one: {kind: dense, encoder: {model: all-MiniLM-L6-v2}}
    two: {kind: dense, encoder: {model: models/tiny}}
teachers:
  given: {kind: given, path: scores.jsonl}
  served: {kind: http, model: types, base_url: "http://127.0.0.1:1"}
  causal: {kind: causal, model: org/name, template: qwen3-reranker}
evaluation: {dataset: beir}
""")
    return load_recipe("recipe.yaml")


def test_what_exists_here_becomes_absolute_and_the_rest_stays(recipe: Recipe, tmp_path: Path):
    found = absolute_paths(recipe)
    here = str(tmp_path)
    assert found.student.model == f"{here}/models/tiny"
    assert found.corpus.path == f"{here}/my corpus"
    assert found.corpus.query_log == f"{here}/log.jsonl"
    assert found.corpus.judged_queries.dataset == f"{here}/beir"
    assert found.corpus.sources.file == f"{here}/ids.txt"
    assert found.sections[next(iter(found.sections))].types_folder == f"{here}/types"
    assert found.evaluation.dataset == f"{here}/beir"
    assert found.teachers["given"].path == f"{here}/scores.jsonl"
    assert found.teachers["served"].model == "types", "the name of a server's model"
    assert found.teachers["causal"].model == "org/name"
    assert [retriever.encoder.model for retriever in found.retrieval.retrievers.values()] == [
        "all-MiniLM-L6-v2",
        f"{here}/models/tiny",
    ]
    assert absolute_paths(found) is found


def test_a_home_directory_is_spelled_out(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    student = recipe.student.model_copy(update={"model": "~/models/tiny"})
    changed = recipe.model_copy(update={"student": student})
    assert absolute_paths(changed).student.model == f"{tmp_path}/models/tiny"
