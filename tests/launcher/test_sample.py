"""`listwise sample` and the report's section on queries: what was written, kept or dropped, can be looked at."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.errors import InputError
from cluster.schemas import QUERIES, QUERY_LOG
from cluster.tables.commit import Commit, publish
from cluster.tables.dropped import MOST_CHARACTERS, MOST_UNITS, PER_REASON, Dropped, choose, read_dropped
from cluster.tables.gc import collect
from cluster.tables.plan import Plan, Shard
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from launcher.outcome import print_status
from launcher.report.page import build_report
from launcher.sample import QuerySample, Sampled, sample_passages
from launcher.show_sample import print_sampled
from tests.launcher.sampled import PASSAGES_WRITTEN, add_judge, add_section, run_with_queries
from tests.pipeline import listwise


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return run_with_queries(tmp_path / "run")


def printed(passages: list[Sampled], terminal: bool = False) -> str:
    file = StringIO()
    print_sampled(passages, Console(file=file, force_terminal=terminal, width=40, no_color=True, highlight=False))
    return file.getvalue()


def number(one: Sampled) -> int:
    return int(one.passage_id.removeprefix("p:"))


def test_every_query_stands_under_its_passage_and_every_dropped_answer_with_its_reason(storage: Storage) -> None:
    sample = QuerySample(storage)
    passages = sorted(sample.passages(1000), key=number)
    assert [number(one) for one in passages] == list(range(PASSAGES_WRITTEN))
    for one in passages:
        assert one.text == f"The jar {number(one)} holds honey.\nPears too."
        found = {written.query_type: (written.text, written.reason) for written in one.written}
        assert found["claim"][1] == ("refusal", None, "too_short")[number(one) % 3]
        assert found["question"][1] == ("near_duplicate" if one is passages[-1] else None)
        assert str(0 if one is passages[-1] else number(one)) in found["question"][0]
    assert sample.drops == {"refusal": 20, "too_short": 20, "near_duplicate": 1}
    assert sample.kept == 2 * PASSAGES_WRITTEN - 41


def test_type_and_reason_choose_what_is_shown(storage: Storage) -> None:
    sample = QuerySample(storage)
    assert {one.query_type for each in sample.passages(20, "claim") for one in each.written} == {"claim"}
    for reason, count in sample.drops.items():
        shown = [one for each in sample.passages(1000, reason=reason) for one in each.written]
        assert [one.reason for one in shown] == [reason] * count
    assert sample.passages(20, "question", "refusal") == []


def test_a_few_passages_come_from_all_shards(storage: Storage) -> None:
    for count in (3, 6, 20):
        shards = [number(one) // 20 for one in QuerySample(storage).passages(count)]
        assert len(shards) == count
        assert max(map(shards.count, range(3))) - min(map(shards.count, range(3))) <= 1
    assert QuerySample(storage).passages(20) == QuerySample(storage).passages(20)


def test_a_run_that_is_not_done_shows_what_it_has(tmp_path: Path) -> None:
    sample = QuerySample(run_with_queries(tmp_path, shards_done=1))
    assert sorted(map(number, sample.passages(1000))) == list(range(20))
    assert sample.drops == {"refusal": 7, "too_short": 6}


def test_passages_are_shown_alone(storage: Storage) -> None:
    passages = sample_passages(storage, 4)
    assert [one.passage_id for one in passages] == ["p:0", "p:20", "p:39", "p:59"]
    assert printed(passages[:1]) == "Jar 0  p:0\nThe jar 0 holds honey. Pears too.\n\n"


def test_what_a_run_does_not_have_is_refused_with_what_it_has(storage: Storage, tmp_path: Path) -> None:
    sample = QuerySample(storage)
    with pytest.raises(InputError, match=r"--type clam: .* there are question, claim, title"):
        sample.check("clam", None)
    with pytest.raises(InputError, match=r"--dropped nonsense: .* there are refusal, too_short, near_duplicate"):
        sample.check(None, "nonsense")
    storage.delete("queries")
    with pytest.raises(InputError, match="holds no queries yet"):
        QuerySample(storage)
    storage.delete("passages")
    with pytest.raises(InputError, match="holds no passages yet"):
        sample_passages(storage, 3)


def test_texts_neither_control_the_terminal_nor_are_read_as_markup(storage: Storage) -> None:
    refused = QuerySample(storage).passages(1, reason="refusal")
    plain = printed(refused)
    assert "  claim  ✗ refusal: I cannot [bold]say\\x1b[2J that for you\n" in plain
    assert "\x1b" not in plain
    shown = printed(refused, terminal=True)
    assert "\x1b[2J" not in shown
    assert "[bold]say\\x1b[2J" in shown.replace("\n", "")


def test_what_was_masked_stands_in_status_and_report(storage: Storage) -> None:
    plan = Plan.new(QUERY_LOG, [Shard("00000", 5), Shard("00001", 5)], {})
    storage.put("query_log/plan.json", plan.to_bytes())
    for shard in plan.shards:
        stats = {"masked_email": 2, "masked_card": 1}
        publish(
            storage, "query_log", plan.id,
            Commit(shard.name, (), 0, 5, {"only_personal": 5}, 0, 0, 0.0, "w", "n", stats),
        )  # fmt: skip
    file = StringIO()
    print_status(storage, Console(file=file, width=80))
    assert "query_log masked: card 2, email 4\n" in file.getvalue()
    build_report(storage)
    assert "email masked <b>4</b>" in storage.get("report.html").decode()


def test_a_terminal_shows_lines_of_its_width(storage: Storage) -> None:
    lines = printed(QuerySample(storage).passages(5), terminal=True).splitlines()
    assert max(map(len, lines)) < 60, "40 columns, and codes of style"
    assert "claim" in "".join(lines)


def test_the_command_prints_plain_lines_and_totals(storage: Storage) -> None:
    done = listwise("sample", storage.url, "queries", "-n", "2", "--type", "claim", "--dropped", "too_short")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("  claim  ✗ too_short: ab\n") == 2
    assert done.stdout.endswith("79 queries kept so far; dropped: refusal 20, too_short 20, near_duplicate 1\n")
    done = listwise("sample", f"{storage.url}-elsewhere")
    assert done.returncode == 2
    assert "there is no folder" in done.stderr


def test_what_is_kept_of_dropped_answers_is_bounded() -> None:
    many = [Dropped(f"p{n}:claim:0", f"reason {n % 50}", "x" * n) for n in range(5000)]
    chosen = choose(many)
    assert len(chosen) == MOST_UNITS
    assert all(len(one.text) <= MOST_CHARACTERS for one in chosen)
    of_two = choose(each for each in many if each.reason in ("reason 1", "reason 2"))
    assert len(of_two) == 2 * PER_REASON
    assert choose(reversed(many)) == chosen
    assert choose([Dropped("p:claim:0", "json", "half \ud83d")])[0].text == "half ?"


def test_dropped_answers_stay_as_long_as_their_commit(storage: Storage) -> None:
    table = Table.open(storage, QUERIES.path)
    table.seal()
    storage.put("queries/dropped/00000.0123456789ab.json", b"[]")
    assert collect(Table.open(storage, QUERIES.path)) == 1
    assert all(read_dropped(storage, commit) for commit in table.commits())
    (file,) = table.commits()[0].dropped_files
    storage.remove(file)
    assert len(QuerySample(storage).passages(1000)) == PASSAGES_WRITTEN, "nothing depends on them"


def test_the_report_has_figures_and_samples_of_every_type(storage: Storage) -> None:
    build_report(storage)
    report = json.loads(storage.get("report.json"))
    claim, question = report["query_types"]
    assert {key: claim[key] for key in ("type", "asked", "kept", "lost")} == {
        "type": "claim", "asked": 60, "kept": 20, "lost": {"refusal": 20, "too_short": 20},
    }  # fmt: skip
    assert (question["kept"], question["lost"]) == (59, {"near_duplicate": 1})
    assert question["distinct"] == round(59 / 60, 3)
    # "Jar 7 holds <b>wax</b>": jar, 7 and holds are words of the source, b, wax and b are none
    assert (claim["words"], claim["overlap"], claim["distinct"]) == (6.0, 0.5, 1.0)
    lengths = [len(f"Jar {n} holds <b>wax</b>") for n in range(1, 60, 3)]
    assert claim["characters"] == round(sum(lengths) / 20, 1)
    assert list(report["query_samples"]) == ["kept", "refusal", "too_short", "near_duplicate"]
    page = storage.get("report.html").decode()
    assert (
        page.index("20 of the written queries")
        < page.index("From corpus to lists")
        < page.index("<h2>What was written")
    )
    assert "Dropped: near duplicate" in page
    assert "holds &lt;b&gt;wax&lt;/b&gt;" in page
    assert "<b>wax" not in page


def test_of_a_mixture_everything_says_who_wrote_it(storage: Storage) -> None:
    """Twenty of sixty questions of the second section are those of the first."""
    add_section(storage)
    sample = QuerySample(storage)
    assert sample.kept == 79 + 40
    assert sample.drops == {"refusal": 20, "too_short": 20, "near_duplicate": 1 + 20}
    by_writer: dict[str, list[str | None]] = {}
    for each in sample.passages(1000):
        for one in each.written:
            by_writer.setdefault(one.writer, []).append(one.reason)
    assert by_writer.keys() == {"0: extractive", "1: big-llm"}
    assert by_writer["1: big-llm"].count("near_duplicate") == 20
    assert by_writer["0: extractive"].count("near_duplicate") == 1
    assert "  question (1: big-llm)  ✗ near_duplicate: What is in jar" in printed(
        sample.passages(100, "question", "near_duplicate")
    )

    build_report(storage)
    report = json.loads(storage.get("report.json"))
    assert [(one["writer"], one["asked"], one["kept"], one["lost"]) for one in report["query_writers"]] == [
        ("0: extractive", 120, 79, {"refusal": 20, "too_short": 20, "near_duplicate": 1}),
        ("1: big-llm", 60, 40, {"near_duplicate": 20}),
    ]
    question = report["query_types"][-1]
    assert (question["type"], question["asked"], question["kept"]) == ("question", 120, 99)
    page = storage.get("report.html").decode()
    assert "Written by" in page
    assert "1: big-llm" in page
    assert "extractive, models/big-llm" in page


def test_passages_that_were_cut_for_the_model_stand_in_status_and_report(storage: Storage) -> None:
    plan = Plan.new(QUERIES, [Shard("00000", 5)], {})
    storage.put("more_queries/1/plan.json", plan.to_bytes())
    publish(
        storage, "more_queries/1", plan.id,
        Commit("00000", (), 0, 5, {"empty": 5}, 0, 0, 0.0, "w", "n", {"passage_cut": 3}),
    )  # fmt: skip
    file = StringIO()
    print_status(storage, Console(file=file, width=80))
    assert "more_queries/1: 3 asked with a passage cut to the model's context\n" in file.getvalue()
    build_report(storage)
    assert "passages cut <b>3</b>" in storage.get("report.html").decode()


def test_what_the_judge_dropped_is_counted_and_shown_by_its_lowest_criterion(storage: Storage) -> None:
    """Of 79 different queries those on jars with a 7 in their number go."""
    with_seven = [n for n in range(PASSAGES_WRITTEN) if "7" in str(n)]
    questions = len(with_seven)
    claims = sum(n % 3 == 1 for n in with_seven)
    add_judge(storage)
    sample = QuerySample(storage)
    assert sample.drops == {
        "refusal": 20, "too_short": 20, "near_duplicate": 1, "judge_answerable": questions, "judge_natural": claims,
    }  # fmt: skip
    assert sample.kept == 79 - questions - claims
    found = [
        (each.passage_id, one.query_type, one.reason) for each in sample.passages(1000) for one in each.written
        if str(one.reason).startswith("judge_")
    ]  # fmt: skip
    assert sorted(found) == sorted(
        [(f"p:{n}", "question", "judge_answerable") for n in with_seven]
        + [(f"p:{n}", "claim", "judge_natural") for n in with_seven if n % 3 == 1]
    )
    assert "  question  ✗ judge_answerable: what is in jar " in printed(sample.passages(3, reason="judge_answerable"))

    build_report(storage)
    report = json.loads(storage.get("report.json"))
    claim, question = report["query_types"]
    assert question["lost"] == {"judge_answerable": questions, "near_duplicate": 1}
    assert (question["kept"], claim["kept"]) == (59 - questions, 20 - claims)
    assert question["distinct"] == round(59 / 60, 3)
    assert report["query_grades"][1] == {
        "type": "question", "judged": 59,
        "grades": {
            "answerable": [questions, *[0] * 8, 59 - questions],
            "natural": [*[0] * 9, 59], "understandable": [*[0] * 9, 59],
        },
    }  # fmt: skip
    assert {"judge_answerable", "judge_natural"} <= report["query_samples"].keys()
    page = storage.get("report.html").decode()
    assert "Grades of the judge" in page
    assert "Dropped: judge answerable" in page


def test_a_judge_that_was_taken_out_of_the_recipe_counts_no_more(storage: Storage) -> None:
    before = storage.get("recipe.yaml")
    add_judge(storage)
    storage.put("recipe.yaml", before)
    sample = QuerySample(storage)
    assert sample.kept == 79
    build_report(storage)
    assert json.loads(storage.get("report.json"))["query_grades"] == []


def test_of_a_mixture_with_a_judge_everything_says_who_wrote_it(storage: Storage) -> None:
    add_section(storage)
    add_judge(storage)
    build_report(storage)
    first, second = json.loads(storage.get("report.json"))["query_writers"]
    seven = [n for n in range(PASSAGES_WRITTEN) if "7" in str(n)]
    assert second["lost"]["judge_answerable"] == sum(n % 3 > 0 for n in seven)
    assert first["lost"]["judge_answerable"] == len(seven)
    assert second["kept"] == 40 - second["lost"]["judge_answerable"]
