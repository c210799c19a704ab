"""The ensemble of a run whose tables are written by hand: two teachers, of which one knows nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cluster.errors import InputError
from cluster.run import Run
from cluster.schemas import CANDIDATES, PASSAGES, SCORES
from cluster.tables.table import Table
from distill.lists import ensemble_stage
from distill.lists.ensemble import Ensemble
from distill.lists.ensemble_reader import EnsembleReader, ScoreReader
from distill.settings.ensemble import EnsembleSettings
from distill.settings.teachers import TeacherSettings
from distill.teachers import agreement
from tests.corpus import ASPECTS, PLACES
from tests.distill.conftest import open_run
from tests.distill.run_tables import write_table

TEACHERS = {"noise": TeacherSettings(kind="bm25", weight=1.0), "good": TeacherSettings(kind="bm25", weight=0.01)}
QUOTED = range(0, 300, 3)  # queries that quote a candidate: for them the noise is right
LEARN = EnsembleSettings(scale="zscore", weights="learnt")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Run]:
    """Run of 100 passages and 300 queries with 20 candidates each; the teacher `noise` scores in thousands."""
    generator = np.random.default_rng(0)
    texts = [template.format(*place) for place in PLACES for template in ASPECTS]
    passages = [
        {"passage_id": f"p{n}", "title": "Title", "text": text, "is_source": True} for n, text in enumerate(texts)
    ]
    candidates, noise, good = [], [], []
    for number in range(300):
        rows = generator.choice(100, 20, replace=False)
        source = number % 100
        rows[7] = source if source not in rows else rows[7]
        at = int(np.flatnonzero(rows == source)[0])
        text = f"words of query {number}"
        scores = generator.normal(size=(2, 20))
        if number in QUOTED:
            text = f"TITLE  {texts[source][:30].upper()}"
            scores[0, at] += 9
        else:
            scores[1, at] += 3
        ids = [f"p{row}" for row in rows]
        candidates.append({
            "query_id": f"q{number}", "source_id": f"p{source}", "query_type": "question", "text": text,
            "passage_ids": ids, "passage_rows": rows.tolist(), "fused": [0.0] * 20, "second_source_id": None,
        })  # fmt: skip
        noise.append({"query_id": f"q{number}", "passage_ids": ids, "scores": 1000 * scores[0] + 5000})
        good.append({"query_id": f"q{number}", "passage_ids": ids, "scores": scores[1]})
    with open_run(tmp_path) as run:
        write_table(run, PASSAGES, passages)
        write_table(run, CANDIDATES, candidates)
        write_table(run, SCORES, noise, path="scores/noise", files=2)
        write_table(run, SCORES, good, path="scores/good", files=5)
        yield run


def tables(run: Run) -> dict[str, Table]:
    return {name: run.table(f"scores/{name}") for name in TEACHERS}


def decide(run: Run, settings: EnsembleSettings) -> Ensemble:
    return ensemble_stage.build(run, settings, TEACHERS, tables(run), run.table("candidates"), run.table("passages"))


def test_where_the_recipe_gives_everything_nothing_is_read_or_recorded(opened: Run):
    assert decide(opened, EnsembleSettings()) == Ensemble((1.0, 0.01))
    assert decide(opened, EnsembleSettings(combine="rrf")) == Ensemble((1.0, 0.01), "rrf")
    assert not opened.storage.exists("ensemble/record.json")


def test_weights_are_learnt_from_queries_that_no_candidate_quotes(opened: Run):
    ensemble = decide(opened, LEARN)
    record = json.loads(opened.storage.get("ensemble/record.json"))["learnt"]
    assert record["queries"] + record["held_out"] == 300 - len(QUOTED)
    assert record["kept"] == "learnt"
    assert ensemble.weights[1] > 0.85
    assert record["learnt"]["held_out"] > 0.8
    assert record["given"]["held_out"] < 0.5, "the given weights follow the noise"


def test_with_enough_judged_queries_weights_are_learnt_from_them_alone(opened: Run):
    """The noise ranks the sources of judged queries first here; the written queries still say that it is noise."""
    rows = opened.table("candidates").read().to_pylist()
    scores = {row["query_id"]: row for row in opened.table("scores/noise").read().to_pylist()}
    judged = [
        {**row, "query_id": f"judged:{number}", "query_type": "judged"}
        for number, row in enumerate(rows)
        if number < 200
    ]
    noise = [
        {**scores[f"q{number}"], "query_id": row["query_id"], "scores": [
            9e9 if one == row["source_id"] else score
            for one, score in zip(row["passage_ids"], scores[f"q{number}"]["scores"], strict=True)
        ]}
        for number, row in enumerate(judged)
    ]  # fmt: skip
    good = opened.table("scores/good").read().to_pylist()
    good += [{**good[number], "query_id": row["query_id"]} for number, row in enumerate(judged)]
    for path in ("candidates", "scores/noise", "scores/good"):
        opened.storage.delete(path)
    write_table(opened, CANDIDATES, [*rows, *judged], files=4)
    write_table(opened, SCORES, [*scores.values(), *noise], path="scores/noise", files=3)
    write_table(opened, SCORES, good, path="scores/good", files=2)

    ensemble = decide(opened, EnsembleSettings(combine="rrf", weights="learnt"))

    record = json.loads(opened.storage.get("ensemble/record.json"))["learnt"]
    assert record["judged"]
    assert record["queries"] + record["held_out"] == 200
    assert ensemble.weights[0] > 0.5
    assert record[record["kept"]]["held_out"] == 1.0, "the source is always first"
    assert "judged queries of held-out sources" in ensemble_stage.in_words(record)


def test_too_few_judged_queries_decide_nothing(opened: Run):
    rows = opened.table("candidates").read().to_pylist()
    opened.storage.delete("candidates")
    write_table(
        opened,
        CANDIDATES,
        [{**row, "query_type": "judged"} if number % 3 == 1 else row for number, row in enumerate(rows)],
    )
    decide(opened, LEARN)
    record = json.loads(opened.storage.get("ensemble/record.json"))["learnt"]
    assert not record["judged"]
    assert record["queries"] + record["held_out"] == 300 - len(QUOTED)


def test_the_second_time_the_record_is_read_and_other_settings_are_refused(opened: Run):
    ensemble = decide(opened, LEARN)
    record = opened.storage.get("ensemble/record.json")
    for name in TEACHERS:
        opened.storage.delete(f"scores/{name}/data")  # nobody may read scores again
    assert decide(opened, LEARN) == ensemble
    assert opened.storage.get("ensemble/record.json") == record
    with pytest.raises(InputError, match="--overwrite lists"):
        decide(opened, EnsembleSettings(scale="minmax"))


def test_scores_are_scaled_over_the_whole_run_and_not_over_what_one_worker_reads(opened: Run):
    ensemble = decide(opened, EnsembleSettings(scale="zscore"))
    raw = {name: np.array(table.read(["scores"])["scores"].to_pylist()) for name, table in tables(opened).items()}
    expected = stats.zscore(raw["noise"], axis=None) + 0.01 * stats.zscore(raw["good"], axis=None)
    read = EnsembleReader(list(tables(opened).values()), ensemble).read(40, 80)
    for number in range(40, 80):
        np.testing.assert_allclose(read[f"q{number}"], expected[number], rtol=1e-5, atol=1e-5)


def test_a_constant_teacher_is_named_and_the_stage_can_be_done_again(opened: Run):
    rows = opened.table("scores/good").read().to_pylist()
    opened.storage.delete("scores/good")
    write_table(opened, SCORES, [{**row, "scores": [0.5] * 20} for row in rows], path="scores/good")
    with pytest.raises(InputError, match=r"teacher 'good' gives every passage the score 0\.5"):
        decide(opened, EnsembleSettings(scale="zscore"))
    assert decide(opened, EnsembleSettings()) == Ensemble((1.0, 0.01))


def test_a_quotation_is_found_in_title_and_text_whatever_its_case_and_spaces(opened: Run):
    passages = opened.table("passages")
    texts = passages.read(["text"])["text"].to_pylist()
    queries = ["title  " + texts[99][:20].upper(), texts[5][3:40], "nowhere to be found", texts[0][:15]]
    rows = [np.array([3, 99]), np.array([5, 6]), np.arange(100), np.array([1, 2])]
    assert ensemble_stage.quoted(queries, rows, passages) == [True, True, False, False]
    assert ensemble_stage.quoted([], [], passages) == []


def test_a_sample_is_spread_over_the_run(opened: Run):
    read = ScoreReader(list(tables(opened).values())).sample(300, 100, 10)
    numbers = sorted(int(query[1:]) for query in read)
    assert len(numbers) >= 100
    assert numbers[0] == 0
    assert numbers[-1] == 299


def test_the_agreement_of_a_run_is_recorded_for_each_pair_of_teachers(opened: Run):
    (pair,) = agreement.build(opened, tables(opened), opened.table("candidates"))
    assert (pair["first"], pair["second"], pair["queries"]) == ("noise", "good", 300)
    raw = [table.read(["scores"])["scores"].to_pylist() for table in tables(opened).values()]
    taus = [stats.kendalltau(one, other).statistic for one, other in zip(*raw, strict=True)]
    assert pair["tau"] == pytest.approx(np.mean(taus))
    first = [[set(np.argsort(scores)[::-1][:10].tolist()) for scores in teacher] for teacher in raw]
    assert pair["overlap"] == pytest.approx(np.mean([len(a & b) / 10 for a, b in zip(*first, strict=True)]))
    assert json.loads(opened.storage.get("agreement/record.json"))["pairs"] == [pair]
    assert agreement.build(opened, {"good": opened.table("scores/good")}, opened.table("candidates")) == []


def test_another_teacher_asks_for_the_lists_again_and_not_for_scores_that_are_paid_for(opened: Run):
    candidates = opened.table("candidates")
    agreement.build(opened, tables(opened), candidates)
    with pytest.raises(InputError, match=r"third: was absent.*\n.*--overwrite lists"):
        agreement.build(opened, {**tables(opened), "third": opened.table("scores/good")}, candidates)
