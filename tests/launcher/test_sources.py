"""The base model's vectors are handed to the choice of sources, and what a recipe lacks is told before the run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.schemas import PASSAGE_VECTORS, PASSAGES, QUERY_LOG
from cluster.tables.table import Table, discard
from distill.retrieval import embeddings
from launcher import sources
from launcher.input_checks import check
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe
from tests.pipeline import recipe_text
from tests.tables import write_table


@pytest.fixture
def recipe(tmp_path: Path, hundred: Path, tiny_encoder: str) -> Recipe:
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    return load_recipe(str(tmp_path / "recipe.yaml"))


def changed(recipe: Recipe, **sections: dict) -> Recipe:
    data = recipe.model_dump()
    for name, section in sections.items():
        data[name] |= section
    return Recipe.model_validate(data)


def test_vectors_of_the_later_stage_are_used_and_a_choice_outlives_them(run, recipe: Recipe, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"_id": "1", "text": "salted herring"}))
    way = {"by": "query_log", "clusters": 4, "floor": 0.5}
    by_log = changed(recipe, corpus={"query_log": str(log), "max_sources": 12, "sources": way})
    workdir = str(tmp_path / "run")
    opened = run("run")
    rows = [
        {"passage_id": f"p{number}", "title": "", "text": f"text {number}", "is_source": number % 5 > 0}
        for number in range(100)
    ]
    passages = write_table(workdir, PASSAGES, PASSAGES.path, rows)
    logged = [{"query_id": "log:1", "query_type": "log", "text": "salted herring", "sample": 0}]
    query_log = write_table(workdir, QUERY_LOG, QUERY_LOG.path, logged)
    encoder = embeddings.identity(by_log.dense_retrievers()["student"])

    def embed() -> None:
        """Vectors as the stage `embeddings` writes them: its identity, so that it finds them done."""
        vectors = np.random.default_rng(0).normal(size=(100, 8)).tolist()
        ids = [row["passage_id"] for row in rows]
        for side, table, named in (("passages", passages, ids), ("query_log", query_log, ["log:1"])):
            written = [{"id": one, "vector": vector} for one, vector in zip(named, vectors, strict=False)]
            made = {"encoder": encoder, "side": "passages" if side == "passages" else "queries"}
            write_table(
                workdir, PASSAGE_VECTORS, f"embeddings/student/{side}", written, **made, inputs=[table.fingerprint]
            )

    embed()
    before = Table.open(opened.storage, "embeddings/student/passages").fingerprint
    chosen = sources.choose(opened, by_log, passages, query_log)
    assert chosen is not None
    assert Table.open(opened.storage, "embeddings/student/passages").fingerprint == before, "nothing is embedded again"
    ids = chosen.read(["passage_id"])["passage_id"].to_pylist()
    assert len(set(ids)) == 12
    assert not [one for one in ids if int(one[1:]) % 5 == 0], "these must not be sources"

    discard(opened.storage, "embeddings")
    embed()
    second = sources.choose(run("run"), by_log, passages, query_log)
    assert Table.open(opened.storage, "embeddings/student/passages").fingerprint != before
    assert second is not None
    assert second.fingerprint == chosen.fingerprint
    other = changed(by_log, corpus={"sources": way | {"floor": 0.1}})
    with pytest.raises(InputError, match=r"sources\.floor: was 0\.5, is 0\.1"):
        sources.choose(run("run"), other, passages, query_log)


def test_simple_recipes_make_no_table_and_embed_nothing_early(run, recipe: Recipe) -> None:
    opened = run("run")
    assert sources.choose(opened, recipe, None, None) is None  # type: ignore[arg-type]
    assert not opened.storage.exists("embeddings/student/passages/plan.json")


def test_what_a_choice_needs_is_looked_at_before_the_run(recipe: Recipe, tiny_llama: str, tmp_path: Path) -> None:
    bm25 = {"retrievers": {"bm25": {"kind": "bm25"}}}
    with pytest.raises(InputError, match=r"names no dense retriever. Add one: --set retrieval.retrievers"):
        check(changed(recipe, retrieval=bm25, corpus={"sources": {"by": "clusters"}}))
    writer = {"engine": "vllm", "model": tiny_llama, "query_types": ["multi_hop"], "prompt": "completion"}
    with pytest.raises(InputError, match="query types with hops: 2"):
        check(changed(recipe, retrieval=bm25, generation=writer))
    with pytest.raises(InputError, match=r"lists.leave_out_source is true, and the query type 'multi_hop'"):
        check(changed(recipe, generation=writer, lists={"leave_out_source": True}))
    check(changed(recipe, generation=writer))
    (tmp_path / "ids.jsonl").write_text('{"_id": "a"}\n{"_id": null}\n')
    by_ids = changed(recipe, corpus={"sources": {"by": "ids", "file": str(tmp_path / "ids.jsonl")}})
    with pytest.raises(InputError, match=r"ids\.jsonl, line 2: field '_id' is null"):
        check(by_ids)


def test_the_retriever_of_the_base_model_is_the_one_that_embeds(recipe: Recipe) -> None:
    other = {"kind": "dense", "encoder": {"model": "other"}}
    two = changed(recipe, retrieval={"retrievers": {"a": other, "own": {"kind": "dense"}}})
    names = sources.base_retriever(two.dense_retrievers(), two.student_encoder())
    assert names == "own"
    one = changed(recipe, retrieval={"retrievers": {"bm25": {"kind": "bm25"}, "a": other}})
    assert sources.base_retriever(one.dense_retrievers(), one.student_encoder()) == "a"
