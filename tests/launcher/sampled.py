"""A run up to its distinct queries, made by the real planner, workers and commits, with invented answers of a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import yaml

from cluster.schemas import APPROVED, DISTINCT, GRADES, PASSAGES, QUERIES, TableSchema
from cluster.tables.commit import Commit, publish, put_rows
from cluster.tables.dropped import put_dropped
from cluster.tables.plan import Plan
from cluster.tables.plan_shards import plan_over_tables, plan_shards
from cluster.tables.shard_reader import ShardReader
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.worker import Output, Task
from generation.collect import collect
from generation.distinct import DistinctWorker
from generation.engines.base import Answer, Request
from generation.judging.judged import Judged
from generation.judging.rubric import load_rubric
from generation.judging.settings import JudgeSettings
from generation.judging.stage import graded
from generation.judging.verdict import VerdictWorker
from generation.mixture import Section
from generation.query_types import load_types
from generation.settings import GenerationSettings
from launcher.recipe_file import load_recipe
from tests.tables import write_table

PASSAGES_WRITTEN = 60
REFUSAL = "I cannot [bold]say\x1b[2J that\nfor you"


def run_with_queries(folder: Path, shards_done: int = 3) -> Storage:
    """Sixty passages in three shards, each asked for a question and a claim.

    Questions are kept, but that of the last passage repeats the first one's. Of claims a third is refused, a third too
    short.
    """
    storage = Storage(str(folder))
    storage.put("recipe.yaml", load_recipe("pydocs").to_yaml().encode())
    passages = write_table(
        str(folder), PASSAGES, PASSAGES.path,
        [
            {"passage_id": f"p:{n}", "title": f"Jar {n}", "text": f"The jar {n} holds honey.\nPears too.",
             "is_source": True}
            for n in range(PASSAGES_WRITTEN)
        ],
    )  # fmt: skip
    plan = Plan.new(QUERIES, plan_shards(passages, 20, where="is_source", units_per_row=2), {})
    storage.put(f"{QUERIES.path}/plan.json", plan.to_bytes())
    reader, types = ShardReader(storage), load_types(GenerationSettings())
    for shard in plan.shards[:shards_done]:
        requests, answers = [], []
        for row in reader.rows(shard, 0, shard.rows).to_pylist():
            for query_type in ("question", "claim"):
                unit = f"{row['passage_id']}:{query_type}:0"
                requests.append(Request(unit, row["passage_id"], row["title"], row["text"], query_type, 0))
                answers.append(_answer(unit, int(row["passage_id"].removeprefix("p:")), query_type))
        _commit(storage, QUERIES, plan, shard.name, collect(requests, answers, types))
    if shards_done == len(plan.shards):
        _distinct(storage)
    return storage


def add_section(storage: Storage) -> None:
    """A second section of the recipe, which writes a question for each passage; every third is one that is there."""
    recipe = yaml.safe_load(storage.get("recipe.yaml"))
    other = recipe["generation"] | {"engine": "vllm", "model": "models/big-llm", "query_types": ["question"]}
    storage.put("recipe.yaml", yaml.safe_dump(recipe | {"generation": [recipe["generation"], other]}).encode())
    section = Section(1)
    passages = Table.open(storage, PASSAGES.path)
    plan = Plan.new(QUERIES, plan_shards(passages, 30, where="is_source"), {})
    storage.put(f"{section.path}/plan.json", plan.to_bytes())
    reader, types = ShardReader(storage), load_types(GenerationSettings())
    for shard in plan.shards:
        requests, answers = [], []
        for row in reader.rows(shard, 0, shard.rows).to_pylist():
            source = row["passage_id"]
            number = int(source.removeprefix("p:"))
            requests.append(
                Request(section.unit(source, "question", 0), source, row["title"], row["text"], "question", 0)
            )
            text = f"What is in jar {number}?" if number % 3 == 0 else f"Who filled the {number}th of them?"
            answers.append(Answer(requests[-1].unit, text, None, 7))
        _commit(storage, QUERIES, plan, shard.name, collect(requests, answers, types), section.path)
    storage.delete(DISTINCT.path)
    _distinct(storage, [QUERIES.path, section.path])


def add_judge(storage: Storage) -> None:
    """A judge that finds questions on jars with a 7 not answerable, claims on them not natural, and all others good."""
    recipe = yaml.safe_load(storage.get("recipe.yaml"))
    several = recipe["generation"] if isinstance(recipe["generation"], list) else [recipe["generation"]]
    judged = [section | {"judge": {"model": "models/judge"}} for section in several]
    storage.put("recipe.yaml", yaml.safe_dump(recipe | {"generation": judged}).encode())
    rubric, reader = load_rubric(JudgeSettings(model="m")), ShardReader(storage)
    plan = Plan.new(GRADES, plan_over_tables([Table.open(storage, DISTINCT.path)], 40), {})
    storage.put(f"{GRADES.path}/plan.json", plan.to_bytes())
    for shard in plan.shards:
        rows = reader.rows(shard, 0, shard.rows).to_pylist()
        judgements = {row["query_id"]: Judged(_logits(row, rubric.questions)) for row in rows}
        _commit(storage, GRADES, plan, shard.name, graded(rows, judgements, rubric))
    rule = {"judge": {"threshold": 0.8, "weights": rubric.weights}}
    plan = Plan.new(APPROVED, plan_shards(Table.open(storage, GRADES.path), 50), rule)
    storage.put(f"{APPROVED.path}/plan.json", plan.to_bytes())
    worker = VerdictWorker(rubric.weights, 0.8)
    for shard in plan.shards:
        task = Task(shard, 0, shard.rows, reader.rows(shard, 0, shard.rows))
        _commit(storage, APPROVED, plan, shard.name, worker.process(task))


def _logits(row: dict[str, object], criteria: Iterable[str]) -> np.ndarray:
    """Of five grades, sure of the worst or of the best."""
    bad = "natural" if row["query_type"] == "claim" else "answerable"
    is_bad = "7" in str(row["source_id"])
    return np.array([[99.0 if is_bad and name == bad else 0, 0, 0, 0, 50.0] for name in criteria])


def _answer(unit: str, number: int, query_type: str) -> Answer:
    if query_type == "question":
        asked = 0 if number == PASSAGES_WRITTEN - 1 else number
        return Answer(unit, f"what  is in jar {asked} ?" if number else "What is in jar 0?", None, 5)
    if number % 3 == 0:
        return Answer(unit, None, "refusal", 5, REFUSAL)
    return Answer(unit, f"Jar {number} holds <b>wax</b>" if number % 3 == 1 else "ab", None, 5)


def _distinct(storage: Storage, paths: Sequence[str] = (QUERIES.path,)) -> None:
    plan = Plan.new(DISTINCT, plan_over_tables([Table.open(storage, path) for path in paths], 50), {})
    storage.put(f"{DISTINCT.path}/plan.json", plan.to_bytes())
    worker, reader = DistinctWorker(storage, paths, 0.85), ShardReader(storage)
    for shard in plan.shards:
        _commit(
            storage, DISTINCT, plan, shard.name,
            worker.process(Task(shard, 0, shard.rows, reader.rows(shard, 0, shard.rows))),
        )  # fmt: skip


def _commit(
    storage: Storage, table: TableSchema, plan: Plan, shard: str, output: Output, path: str | None = None
) -> None:
    path = path or table.path
    commit = Commit(
        shard=shard,
        files=put_rows(storage, path, shard, output.rows),
        rows=output.rows.num_rows,
        units=output.rows.num_rows + sum(output.drops.values()),
        drops={reason: count for reason, count in output.drops.items() if count},
        rejects=0,
        tokens=output.tokens,
        seconds=1.0,
        worker="w",
        node="n",
        stats=output.stats,
        dropped_files=put_dropped(storage, path, shard, output.dropped),
    )
    publish(storage, path, plan.id, commit)
