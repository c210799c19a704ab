"""From a corpus to passages: records are dropped for counted reasons, and the cut into shards changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError
from cluster.schemas import RECORDS
from cluster.tables.plan_shards import plan_shards
from cluster.tables.storage import Storage
from cluster.tables.table import Table
from cluster.workers.worker import Output, Task
from generation.passages import PassageWorker
from generation.readers.open_reader import open_reader
from generation.records import RecordWorker
from generation.settings import CorpusSettings
from tests.tables import write_table

LONG = "The harbour of Arlewick freezes over in a hard winter, and the herring boats stay ashore until March."
ROWS = [
    {"_id": "long", "text": LONG},
    {"_id": "inside the one before", "text": LONG[4:40]},
    {"_id": "short", "text": "Too few"},
    {"_id": "empty", "text": ""},
    {"_id": "ligature", "text": "The ﬁsh market ﬁlls before dawn on Fridays."},
    {"_id": "twice", "text": "The fish market fills before dawn on Fridays."},
    {"_id": "titled", "title": "Market", "text": "The fish market fills before dawn on Fridays."},
    {"_id": "inside the one after", "text": "before dawn the bells ring"},
    {"_id": "last", "text": "An hour before dawn the bells ring, and the boats put out."},
    {"_id": "far copy", "text": LONG},
]
KEPT = ["long", "ligature", "titled", "last"]
DROPS = {"too_short": 2, "contained": 2, "duplicate": 2}


def write_corpus(folder: Path, rows: list[dict]) -> CorpusSettings:
    path = folder / "docs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return CorpusSettings(path=str(path))


def records_of(corpus: CorpusSettings, rows_per_shard: int = 100) -> tuple[list[dict], list[Output]]:
    reader = open_reader(corpus)
    worker = RecordWorker(corpus, reader)
    shards = reader.plan(rows_per_shard, corpus.max_passages)
    outputs = [worker.process(Task(shard, 0, shard.rows, None)) for shard in shards]
    return [row for output in outputs for row in output.rows.to_pylist()], outputs


def passages_of(
    workdir: Path, records: list[dict], judged: list[str] | None = None, most: int = 100, seed: int = 0
) -> tuple[list[dict], dict[str, int]]:
    table = write_table(str(workdir), RECORDS, RECORDS.path, records)
    worker = PassageWorker(Storage(str(workdir)), RECORDS.path, judged or [], most, seed)
    rows: list[dict] = []
    drops: dict[str, int] = {}
    for shard in plan_shards(table, 3):
        batch = pa.Table.from_pylist(records, schema=RECORDS.schema)
        piece = shard.slices[0]
        output = worker.process(Task(shard, 0, shard.rows, batch.slice(piece.start, piece.stop - piece.start)))
        assert output.rows.num_rows + sum(output.drops.values()) == shard.rows
        rows += output.rows.to_pylist()
        for reason, count in output.drops.items():
            drops[reason] = drops.get(reason, 0) + count
    return rows, drops


@pytest.mark.parametrize("rows_per_shard", [1, 2, 3, 4, 100])
def test_the_cut_into_shards_does_not_change_the_rows_of_records(rows_per_shard: int, tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, ROWS)
    assert records_of(corpus, rows_per_shard)[0] == records_of(corpus)[0]


def test_the_cut_into_shards_does_not_change_the_rows_of_docstrings() -> None:
    corpus = CorpusSettings(path="pydocs://numpy")
    some, outputs = records_of(corpus, 150)
    assert len(outputs) > 3
    assert some == records_of(corpus, 100_000)[0]


def test_a_relative_path_begins_at_the_directory_of_the_command(run, tmp_path: Path, monkeypatch) -> None:
    from generation import records

    write_corpus(tmp_path, ROWS)
    monkeypatch.chdir(tmp_path)
    assert records.build(run("relative"), CorpusSettings(path="docs.jsonl")).num_rows == len(ROWS)


def test_part_of_a_shard_gives_the_same_records(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, ROWS)
    reader = open_reader(corpus)
    [shard] = reader.plan(100, None)
    worker = RecordWorker(corpus, reader)
    parts = [worker.process(Task(shard, row, row + 1, None)).rows.to_pylist()[0] for row in range(len(ROWS))]
    assert parts == records_of(corpus)[0]


def test_every_record_is_kept_or_dropped_for_a_counted_reason(tmp_path: Path) -> None:
    rows, drops = passages_of(tmp_path / "run", records_of(write_corpus(tmp_path, ROWS))[0])
    assert [row["passage_id"] for row in rows] == KEPT
    assert drops == DROPS
    assert rows[1]["text"] == "The fish market fills before dawn on Fridays."


def test_a_passage_of_a_million_characters_is_cut_and_counted(tmp_path: Path) -> None:
    rows, [output] = records_of(write_corpus(tmp_path, [{"_id": "a", "text": "word " * 200_000}]))
    assert len(rows[0]["text"]) <= 100_000
    assert output.stats["cut"] == 1


def test_half_a_surrogate_pair_in_a_text_is_survived(tmp_path: Path) -> None:
    (row,), _ = records_of(write_corpus(tmp_path, [{"_id": "a", "text": "a passage with \ud800 in its middle"}]))
    assert "in its middle" in row["text"]


def test_an_id_that_occurs_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path, [{"_id": name, "text": f"{number} {LONG}"} for number, name in enumerate("abcb")])
    with pytest.raises(InputError) as caught:
        passages_of(tmp_path / "run", records_of(corpus)[0])
    for part in ("'b'", "docs.jsonl, line 2", "docs.jsonl, line 4"):
        assert part in str(caught.value)


def test_sources_are_a_seeded_sample_without_the_judged(tmp_path: Path) -> None:
    texts = [{"_id": f"p{number}", "text": f"{number} is a number, and {LONG}"} for number in range(40)]
    records = records_of(write_corpus(tmp_path, texts))[0]
    judged = [f"p{number}" for number in range(0, 40, 2)]

    def sources(name: str, **settings) -> list[str]:
        rows = passages_of(tmp_path / name, records, judged, **settings)[0]
        assert len(rows) == 40
        return [row["passage_id"] for row in rows if row["is_source"]]

    assert sources("all") == [f"p{number}" for number in range(1, 40, 2)]
    some = sources("some", most=7)
    assert len(some) == 7
    assert not set(some) & set(judged)
    assert some == sources("again", most=7)
    assert some != sources("other", most=7, seed=1)


def test_a_share_is_of_those_that_may_be_sources_and_without_a_number_all_of_them_are_marked(tmp_path: Path) -> None:
    texts = [{"_id": f"p{number}", "text": f"{number} is a number, and {LONG}"} for number in range(40)]
    records = records_of(write_corpus(tmp_path, texts))[0]
    judged = [f"p{number}" for number in range(0, 40, 2)]

    def sources(name: str, *settings) -> int:
        table = write_table(str(tmp_path / name), RECORDS, RECORDS.path, records)
        worker = PassageWorker(Storage(str(tmp_path / name)), RECORDS.path, judged, *settings)
        shards = plan_shards(table, 100)
        outputs = [worker.process(Task(shard, 0, shard.rows, table.read())) for shard in shards]
        return sum(output.stats["sources"] for output in outputs)

    assert sources("share", 100, 0, 0.25) == 5
    assert sources("least", 100, 0, 0.001) == 1
    assert sources("number", 3, 0, 0.25) == 3
    assert sources("all", None, 0) == 20


def test_digests_tell_texts_apart_and_titles_from_texts(tmp_path: Path) -> None:
    rows = [{"_id": "a", "title": "x", "text": LONG}, {"_id": "b", "title": "", "text": f"x {LONG}"},
            {"_id": "c", "title": "", "text": LONG}]  # fmt: skip
    digests = [row["digest"] for row in records_of(write_corpus(tmp_path, rows))[0]]
    assert len(np.unique(digests)) == 3


def test_the_stage_on_a_real_cluster_keeps_the_same_passages_and_is_done_once(run, tmp_path: Path) -> None:
    from generation import passages, records

    corpus = write_corpus(tmp_path, ROWS).model_copy(update={"rows_per_shard": 3})
    opened = run("corpus")
    table = passages.build(opened, corpus, records.build(opened, corpus), frozenset({"long"}), 100)
    assert table.read(["passage_id"])["passage_id"].to_pylist() == KEPT
    assert table.read(["is_source"])["is_source"].to_pylist() == [False, True, True, True]
    drops: dict[str, int] = {}
    for commit in table.commits():
        for reason, count in commit.drops.items():
            drops[reason] = drops.get(reason, 0) + count
    assert drops == DROPS
    before = table.fingerprint
    assert passages.build(opened, corpus, records.build(opened, corpus), frozenset({"long"}), 100).fingerprint == before


@pytest.mark.parametrize(
    ("rows", "judged", "expected"),
    [
        ([{"_id": "a", "text": LONG}, {"_id": "a", "text": "Another text of some length"}], [], "line 2"),
        ([{"_id": "a", "text": "short"}, {"_id": "b", "text": ""}], [], "too_short 2"),
        ([{"_id": "a", "text": LONG}], ["a"], "exclude_judged_sources"),
        ([{"_id": "a", "text": 7}], [], "line 1"),
    ],
)
def test_a_mistake_in_the_corpus_ends_the_run_with_its_message(rows, judged, expected, run, tmp_path: Path) -> None:
    from generation import passages, records

    corpus = write_corpus(tmp_path, rows)
    opened = run("mistake")
    with pytest.raises(InputError, match=expected):
        passages.build(opened, corpus, records.build(opened, corpus), frozenset(judged), 100)


def test_a_corpus_changed_after_it_was_read_is_not_mixed_with_the_old_one(run, tmp_path: Path) -> None:
    from generation import records

    corpus = write_corpus(tmp_path, ROWS)
    opened = run("changed")
    records.build(opened, corpus)
    write_corpus(tmp_path, [*ROWS, {"_id": "new", "text": f"New: {LONG}"}])
    with pytest.raises(InputError, match="--overwrite corpus"):
        records.build(opened, corpus)


def test_tables_open_again_from_storage_alone(run, tmp_path: Path) -> None:
    from generation import records

    corpus = write_corpus(tmp_path, ROWS)
    opened = run("again")
    path = records.build(opened, corpus).path
    assert Table.open(Storage(opened.storage.url), path).num_rows == len(ROWS)
