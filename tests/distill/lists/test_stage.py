"""The stage of training lists: from the scores of real teachers to rows of LISTS, by their definition."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.schemas import PASSAGES
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.worker import Task
from distill.lists import ensemble_reader
from distill.lists import stage as lists
from distill.lists.build import scale_of, scale_scores, split_of
from distill.lists.choose import choose
from distill.lists.ensemble import Ensemble, ensemble_scores
from distill.lists.ensemble_reader import EnsembleReader
from distill.lists.stage import ListWorker
from distill.settings.lists import ListSettings
from distill.settings.teachers import TeacherSettings
from tests.distill.conftest import BM25, Retrieved
from tests.distill.run_tables import write_table

TEACHERS = {"bm25": BM25, "dense": TeacherSettings(kind="bi_encoder", weight=1.0)}
LISTS = ListSettings(length=10, best_percentile=10, rows_per_shard=40)


def test_lists_follow_the_definition_row_by_row(retrieved: Retrieved, proposed: Table, scored: dict[str, Table]):
    retrieved.run.storage.delete("lists")
    table = lists.build(retrieved.run, LISTS, TEACHERS, scored, proposed, retrieved.passages, True)
    lists_of = {row["query_id"]: row for row in table.read().to_pylist()}
    rows = proposed.read().to_pylist()
    raw = {name: scored[name].read(["scores"]).column(0).to_pylist() for name in TEACHERS}
    totals = [
        ensemble_scores([np.array(raw["bm25"][n]), np.array(raw["dense"][n])], [0.02, 1.0]) for n in range(len(rows))
    ]
    scale = scale_of(totals, LISTS)
    drops = {"source_not_first": 0, "low_score": 0}
    for row, total in zip(rows, totals, strict=True):
        source = row["source_id"]
        ranking = [row["passage_ids"][slot] for slot in np.argsort(-total, kind="stable")]
        if source is not None and ranking[0] != source:
            drops["source_not_first"] += 1
        elif total.max() < scale.best:
            drops["low_score"] += 1
        else:
            training_list = lists_of.pop(row["query_id"])
            order = [slot for slot in np.argsort(-total, kind="stable") if row["passage_ids"][slot] != source][:10]
            assert training_list["passage_rows"] == [row["passage_rows"][slot] for slot in order]
            np.testing.assert_allclose(training_list["scores"], scale_scores(total[order], scale), atol=1e-6)
            key = f"passage {source}" if source else f"log {row['text'].casefold()}"
            assert training_list["split"] == split_of(key, 0.1, 0)
    assert not lists_of, "the table has no other list"
    counted = {reason: sum(commit.drops.get(reason, 0) for commit in table.commits()) for reason in drops}
    assert counted == drops
    assert table.num_rows + sum(drops.values()) == len(rows)
    assert drops["low_score"] > 0


@pytest.mark.parametrize("at_once", [7, 500])
def test_percentiles_are_those_of_each_types_queries_that_find_their_source(
    proposed: Table, scored: dict[str, Table], monkeypatch: pytest.MonkeyPatch, at_once: int
):
    monkeypatch.setattr(ensemble_reader, "SAMPLED_AT_ONCE", at_once)
    settings = LISTS.model_copy(update={"best_percentile_of": "all", "percentiles_per_type": True})
    scales = EnsembleReader([scored["dense"]], Ensemble((1.0,))).scale(proposed, settings)
    scores = scored["dense"].read(["scores"]).column(0).to_pylist()
    for kind in ("question", "log"):
        rows = [(row, one) for row, one in zip(proposed.read().to_pylist(), scores, strict=True)
                if row["query_type"] == kind]  # fmt: skip
        found = [
            one for row, one in rows
            if row["source_id"] is None or one[row["passage_ids"].index(row["source_id"])] == max(one)
        ]  # fmt: skip
        assert kind == "log" or 0 < len(found) < len(rows)
        everything = [score for _, one in rows for score in one]
        scale = scales.of(kind)
        assert (scale.low, scale.high) == pytest.approx(tuple(np.percentile(everything, [1, 99])))
        assert scale.best == pytest.approx(np.percentile([score for one in found for score in one], 10))


@pytest.mark.parametrize("choice", ["contested", "spread", "stratified"])
def test_other_choices_of_lists_follow_their_definition_row_by_row(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table], choice: str
):
    retrieved.run.storage.delete("lists")
    settings = LISTS.model_copy(update={"choice": choice})
    table = lists.build(
        retrieved.run, settings, TEACHERS, scored, proposed, retrieved.passages, True, "dense"
    )  # fmt: skip
    made = {row["query_id"]: row for row in table.read().to_pylist()}
    assert len(made) > 20
    differ = 0
    raw = {name: scored[name].read(["scores"]).column(0).to_pylist() for name in TEACHERS}
    for number, row in enumerate(proposed.read().to_pylist()):
        if row["query_id"] not in made:
            continue
        total = ensemble_scores([np.array(raw["bm25"][number]), np.array(raw["dense"][number])], [0.02, 1.0])
        pool = np.array([slot for slot, one in enumerate(row["passage_ids"]) if one != row["source_id"]])
        student = np.argsort(np.argsort(-np.array(raw["dense"][number])[pool], kind="stable"))
        expected = pool[choose(total[pool], 10, choice, student)]
        assert made[row["query_id"]]["passage_rows"] == [row["passage_rows"][slot] for slot in expected]
        differ += set(expected) != set(pool[choose(total[pool], 10, "top")])
    assert differ > 20


def test_copies_of_a_source_are_left_out_of_its_lists_and_counted(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table]
):
    run, passages = retrieved.run, retrieved.passages
    rows = passages.read().to_pylist()
    copied = {row["source_id"]: row["passage_ids"][1] for row in proposed.read().to_pylist() if row["source_id"]}
    copied = {source: other for source, other in copied.items() if other != source}
    source, other = next(iter(copied.items()))
    text = next(row["text"] for row in rows if row["passage_id"] == source)
    changed = [row | {"text": f" {text.upper()}"} if row["passage_id"] == other else row for row in rows]
    table = write_table(run, PASSAGES, changed, path="copied")

    def made(path: Table, **more) -> tuple[dict[str, list[int]], int]:
        run.storage.delete("lists")
        chosen = LISTS.model_copy(update={"require_source_first": False, "best_percentile": 0.0, **more})
        built = lists.build(run, chosen, TEACHERS, scored, proposed, path, False)
        count = sum(commit.stats.get("source_copies", 0) for commit in built.commits())
        return {row["query_id"]: row["passage_rows"] for row in built.read().to_pylist()}, count

    number = next(place for place, row in enumerate(rows) if row["passage_id"] == other)
    (plain, none), (without, some), (kept, off) = made(passages), made(table), made(table, duplicate_similarity=None)
    assert (none, off) == (0, 0)
    assert kept == plain
    sources = {row["query_id"]: row["source_id"] for row in proposed.read().to_pylist()}
    both = {source, other}  # each is a copy of the other
    candidates_of = {row["query_id"]: set(row["passage_ids"]) for row in proposed.read().to_pylist()}
    assert some == sum(sources[query] in both and both <= ids for query, ids in candidates_of.items()) > 0
    touched = [query for query in without if sources[query] == source and number in plain[query]]
    assert touched
    for query, listed in without.items():
        if sources[query] == source:
            assert number not in listed
        elif sources[query] not in both:
            assert listed == plain[query]


def test_sources_stay_in_lists_of_a_language_model_and_settings_override_that(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table]
):
    run = retrieved.run
    sources = dict(
        zip(*(proposed.read([name]).column(0).to_pylist() for name in ("query_id", "source_id")), strict=True)
    )
    ids = retrieved.passages.read(["passage_id"]).column(0).to_pylist()

    def source_in_list(extractive: bool | frozenset[int], **settings) -> set[bool]:
        run.storage.delete("lists")
        table = lists.build(
            run, LISTS.model_copy(update=settings), TEACHERS, scored, proposed, retrieved.passages, extractive
        )
        return {
            sources[row["query_id"]] in [ids[number] for number in row["passage_rows"]]
            for row in table.read().to_pylist()
            if sources[row["query_id"]]
        }

    assert source_in_list(True) == {False}
    assert source_in_list(False) == {True}
    assert source_in_list(True, leave_out_source=False) == {True}
    assert source_in_list(False, leave_out_source=True) == {False}
    assert source_in_list(frozenset({0})) == {False}, "in a mixture: the first section quotes"
    assert source_in_list(frozenset({1})) == {True}, "another one does"


def test_a_query_that_a_teacher_rejected_is_dropped_and_the_others_are_read_right(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table]
):
    from cluster.schemas import SCORES

    rows = scored["dense"].read().to_pylist()
    missing = rows.pop(17)["query_id"]
    gap = write_table(retrieved.run, SCORES, rows, path="scores/gap", files=1, rejects=1)
    whole = EnsembleReader([scored["bm25"], scored["dense"]], Ensemble((1.0, 1.0)))
    both = EnsembleReader([scored["bm25"], gap], Ensemble((1.0, 1.0)))
    expected, totals = whole.read(10, 30), both.read(10, 30)
    assert missing in expected
    for query in set(expected) - {missing}:
        np.testing.assert_array_equal(totals[query], expected[query])
    worker = ListWorker(
        retrieved.run.storage,
        ["scores/bm25", "scores/gap"],
        Ensemble((1.0, 1.0)),
        "candidates",
        "passages",
        LISTS,
        False,
    )
    task = Task(Shard("00000", proposed.num_rows, params={"first": 0}), 10, 30, proposed.read().slice(10, 20))
    output = worker.process(task)
    assert output.drops["no_score"] == 1
    assert output.rows.num_rows + sum(output.drops.values()) == 20


def test_queries_over_two_passages_have_one_split_with_both_or_are_dropped(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table]
):
    settings = LISTS.model_copy(update={"dev_fraction": 0.4, "require_source_first": False})
    worker = ListWorker(
        retrieved.run.storage, [table.path for table in scored.values()], Ensemble((1.0,) * len(scored)), "candidates",
        "passages", settings, False,
    )  # fmt: skip
    plain = proposed.read()
    seconds = [
        next(one for one in ids if one != source) if source else None
        for ids, source in zip(plain["passage_ids"].to_pylist(), plain["source_id"].to_pylist(), strict=True)
    ]
    two = plain.set_column(
        plain.column_names.index("second_source_id"), "second_source_id", pa.array(seconds, pa.string())
    )
    task = Task(Shard("00000", plain.num_rows, params={"first": 0}), 0, plain.num_rows, two)
    output = worker.process(task)
    rows = {row["query_id"]: row for row in output.rows.to_pylist()}
    mixed = 0
    passage_rows = dict(zip(retrieved.passages.read(["passage_id"])["passage_id"].to_pylist(), range(100), strict=True))
    for query in two.to_pylist():
        if query["source_id"] is None:
            continue
        both = [query["source_id"], query["second_source_id"]]
        splits = {split_of(f"passage {one}", 0.4, settings.seed) for one in both}
        row = rows.get(query["query_id"])
        mixed += len(splits) == 2
        if len(splits) == 2:
            assert row is None
        elif row:
            assert {row["split"]} == splits
            scores = dict(zip(row["passage_rows"], row["scores"], strict=True))
            of_both = {scores[passage_rows[one]] for one in both if passage_rows[one] in scores}
            assert len(of_both) <= 1, "both are as good as the better one"
    assert 0 < output.drops["two_splits"] <= mixed
    assert output.rows.num_rows + sum(output.drops.values()) == plain.num_rows


def test_no_query_left_is_bad_input_that_counts_the_drops_of_each_filter(
    retrieved: Retrieved, proposed: Table, scored: dict[str, Table]
):
    retrieved.run.storage.delete("lists")
    with pytest.raises(InputError, match=rf"of {proposed.num_rows} scored queries.*few_candidates took \d+") as caught:
        lists.build(
            retrieved.run, LISTS.model_copy(update={"length": 90}), TEACHERS, scored, proposed, retrieved.passages, True
        )
    assert "lists.length=90" in str(caught.value)
