"""Mistakes a person can make, taken through the command itself: exit code 2, one message, nothing half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.tables.storage import Storage
from cluster.watch.progress import Progress
from cluster.watch.status import status
from launcher.pipeline import execute
from launcher.recipe_file import load_recipe
from tests.pipeline import CommandHere, listwise, recipe_text

pytestmark = pytest.mark.usefixtures("local_ray")


@pytest.fixture
def recipe(tmp_path: Path, hundred: Path, tiny_encoder: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(recipe_text(hundred, tiny_encoder, tmp_path / "run"))
    return path


Refused = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandHere:
    return CommandHere(monkeypatch, capsys)


@pytest.fixture
def refused(recipe: Path, command: CommandHere) -> Refused:
    """Runs the recipe with changes; returns the one message that it ends with."""

    def run(*changes: str, options: Sequence[str] = ()) -> str:
        words = (word for change in changes for word in ("--set", change))
        done = command("run", str(recipe), *options, *words)
        assert done.returncode == 2, done.stderr
        assert done.stdout == ""
        assert done.stderr.count("error:") == 1
        assert "Traceback" not in done.stderr
        return done.stderr[done.stderr.index("error:") :]

    return run


def passage(number: int, text: str = "A passage about the harbour and the weighing of herring.") -> str:
    return json.dumps({"_id": f"p{number}", "title": "", "text": f"{text} Number {number}."}) + "\n"


def corpus(folder: Path, *lines: str | bytes) -> str:
    path = folder / "corpus.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return f"corpus.path={path}"


# --- the corpus: nothing of the run is left ---


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([passage(1), passage(2), '{"_id": "p3", "text": \n', passage(4)], ["corpus.jsonl, line 3", "not JSON"]),
        ([passage(1), b'{"_id": "p2", "text": "caf\xe9"}\n'], ["corpus.jsonl, line 2", "byte 27", "not UTF-8"]),
        (
            [passage(7), passage(8), passage(7, "Another text altogether.")],
            ["'p7' occurs twice", "corpus.jsonl, line 1", "corpus.jsonl, line 3"],
        ),
        ([], ["corpus.jsonl", "the corpus is empty"]),
        (["\n", "  \n"], ["corpus.jsonl", "the corpus is empty"]),
        (
            ['{"_id": "a", "text": ""}\n', '{"_id": "b", "text": "short"}\n'],
            ["no passage is left", "too_short 2", "corpus.min_characters"],
        ),
    ],
    ids=["malformed", "not UTF-8", "id twice", "empty", "blank lines", "empty texts only"],
)
def test_a_corpus_that_cannot_be_read_is_refused_with_the_place(
    lines: list[str | bytes], words: list[str], refused: Refused, tmp_path: Path
) -> None:
    message = refused(corpus(tmp_path, *lines))
    for word in words:
        assert word in message
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_a_later_shard_leaves_nothing_of_the_earlier_ones(refused: Refused, tmp_path: Path) -> None:
    lines = [passage(number) for number in range(30)]
    message = refused(corpus(tmp_path, *lines, "not json\n"), "corpus.rows_per_shard=5")
    assert "corpus.jsonl, line 31" in message
    assert not (tmp_path / "run").exists()


# --- what a recipe names is looked for before anything runs ---


def test_files_folders_and_models_that_are_not_there_are_named_with_their_key(refused: Refused, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    for change, words in {
        f"corpus.path={absent}.jsonl": ["corpus.path", f"{absent}.jsonl"],
        f"corpus.query_log={absent}.jsonl": ["corpus.query_log", f"{absent}.jsonl"],
        f"student.model={absent}": ["student.model", f"'{absent}'"],
        f"teachers.encoder.encoder.model={absent}": ["teachers.encoder.encoder.model", f"'{absent}'"],
        f"teachers.encoder.model={absent}": ["`teachers.encoder`", "`model` is a field of kind cross_encoder"],
        f"evaluation.dataset={absent}": ["evaluation.dataset", str(absent)],
        "evaluation.split=train": ["train.tsv", "splits test"],
    }.items():
        message = refused(change)
        for word in words:
            assert word in message
        assert not (tmp_path / "run").exists(), change


def test_files_that_a_run_would_replace_and_no_run_has_made_are_left_alone(refused: Refused, tmp_path: Path) -> None:
    mine = tmp_path / "run" / "logs" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("my own notes")
    (tmp_path / "run" / "recipe.yaml").write_text("# my own recipe")
    for options in ([], ["--overwrite", "corpus"]):
        assert "holds recipe.yaml, logs, which no run has made" in refused(options=options)
    assert mine.read_text() == "my own notes"
    assert (tmp_path / "run" / "recipe.yaml").read_text() == "# my own recipe"


def test_qrels_that_name_unknown_passages_count_as_not_found_and_are_told(
    recipe: Path, hundred: Path, tmp_path: Path, command: CommandHere
) -> None:
    folder = tmp_path / "judged"
    shutil.copytree(hundred, folder)
    with (folder / "qrels" / "test.tsv").open("a") as file:
        file.write("q00\tno-such-passage\t1\n")
    done = command("run", str(recipe), "--until", "corpus", "--set", f"evaluation.dataset={folder}")
    told = " ".join(done.stderr.split())
    assert done.returncode == 0, told
    assert "judged, test: 1 of 21 judgments name passages that the corpus lacks" in told


def test_a_mistake_in_the_query_log_is_found_before_any_query_is_written(refused: Refused, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"_id": "1", "text": "where are herrings weighed"}\n{"_id": "2"}\n')
    message = refused(f"corpus.query_log={log}")
    assert f"{log}, line 2" in message
    assert not (tmp_path / "run" / "queries").exists()


# --- no query is left: says which filter took how many, and the next run can do that stage again ---


def counts(message: str) -> dict[str, int]:
    """`filter took n` in a message."""
    words = message.replace("(", " ").replace(",", " ").split()
    return {words[place - 1]: int(words[place + 1]) for place, word in enumerate(words) if word == "took"}


@pytest.mark.slow
def test_when_no_query_is_left_the_message_says_which_filter_took_how_many_and_its_advice_helps(
    refused: Refused, recipe: Path, tmp_path: Path
) -> None:
    advised: list[str] = []
    for stage, change, filters in (
        ("queries", "generation.min_query_characters=5000", {"too_short"}),
        ("candidates", "retrieval.min_candidates=99", {"round_trip", "few_candidates"}),
        ("lists", "lists.dev_fraction=0.999999", {"low_score", "dev_split"}),
    ):
        message = refused(change, options=["--until", stage, *advised])
        taken = counts(message)
        assert filters <= taken.keys()
        (table,) = [one for one in status(Storage(str(tmp_path / "run"))) if one["table"] == stage]
        drops = table["drops"] | ({"dev_split": table["rows"]} if stage == "lists" else {})
        assert {name: count for name, count in taken.items() if count} == {n: c for n, c in drops.items() if c}
        assert table["shards_done"] == table["shards"], "the table is whole: it holds the counts"
        assert change.partition("=")[0] in message
        advised = message[message.index("--overwrite") :].rstrip(".\n").split()
        assert advised == ["--overwrite", stage]
    execute(load_recipe(str(recipe)), "lists", frozenset({"lists"}), progress=Progress(quiet=True))


# --- odd, and no reason to stop ---


def test_empty_texts_a_million_characters_and_an_id_of_many_scripts_are_survived_and_counted(
    recipe: Path, tmp_path: Path
) -> None:
    odd = [
        passage(100, "word " * 200_000),
        '{"_id": "empty", "text": ""}\n',
        '{"_id": "blank", "title": "only a title", "text": "  \\n "}\n',
        '{"_id": "Ωμέγα 港 🚢", "text": "The ferry of Omega harbour sails at nine."}\n',
        *(passage(number, f"Passage {number} tells of boat {number * 7} and its crew.") for number in range(40)),
    ]
    changes = [corpus(tmp_path, *odd), "evaluation.dataset=null"]
    execute(load_recipe(str(recipe), changes), "candidates", progress=Progress(quiet=True))
    stages = {stage["table"]: stage for stage in status(Storage(str(tmp_path / "run")))}
    assert stages["records"]["rows"] == 44
    assert stages["records"]["stats"] == {"empty": 2, "cut": 1}
    assert (stages["passages"]["rows"], stages["passages"]["drops"]) == (42, {"too_short": 2})
    assert stages["queries"]["rows"] > 0
    assert all(stage["rejects"] == 0 for stage in stages.values())


# --- the installed command ---


def test_the_command_ends_with_one_message_and_no_trace_of_ray_or_python(recipe: Path, tmp_path: Path) -> None:
    done = listwise("run", str(recipe), "--set", corpus(tmp_path, passage(1), passage(1)))
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("error:") == 1
    assert "'p1' occurs twice" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ray" not in done.stderr.lower()
    assert not (tmp_path / "run").exists()


def test_a_student_whose_weights_have_other_names_is_refused_before_the_first_stage(
    tmp_path: Path, hundred: Path, tiny_encoder: str, command: CommandHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(tiny_encoder, tmp_path / "student"))
    (weights,) = folder.rglob("*.safetensors")
    save_file({f"other.{key}": value for key, value in load_file(weights).items()}, weights, {"format": "pt"})
    (tmp_path / "recipe.yaml").write_text(recipe_text(hundred, "student", tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    done = command("run", "recipe.yaml")
    assert done.returncode == 2, done.stderr
    assert f"error: student: model '{folder}' lacks weights: its files hold nothing for" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists(), "nothing was paid for"
    planned = command("plan", "recipe.yaml")
    assert planned.returncode == 2
    assert "error: student: model 'student' lacks weights" in planned.stderr
    checked = command("doctor", "recipe.yaml")
    assert checked.returncode == 1
    assert "lacks weights" in checked.stdout.replace("\n", " ")
