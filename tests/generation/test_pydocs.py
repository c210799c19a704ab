from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.errors import InputError
from generation import pydocs
from generation.docstrings import split_docstring
from generation.readers.open_reader import open_reader
from generation.settings import CorpusSettings

PACKAGES = ("stdlib", "numpy")


def plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W\d_]+", text.lower()))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_no_query_is_part_of_its_passage_and_no_two_queries_are_equal() -> None:
    pairs = pydocs.judged(PACKAGES)
    assert len(pairs) > 1000
    assert not [query for doc, query in pairs if plain(query) in plain(doc.body)]
    assert len({plain(query) for _, query in pairs}) == len(pairs)


def test_the_judged_corpus_is_that_of_the_reader_and_the_sample_is_the_same_every_time(tmp_path: Path) -> None:
    assert pydocs.write_judged("pydocs://stdlib,numpy", tmp_path / "one", 300, seed=1) == 300
    pydocs.write_judged(PACKAGES, tmp_path / "two", 300, seed=1)
    pydocs.write_judged(PACKAGES, tmp_path / "other", 300, seed=2)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one/queries.jsonl").read_bytes() != (tmp_path / "other/queries.jsonl").read_bytes()

    reader = open_reader(CorpusSettings(path="pydocs://stdlib,numpy"))
    shards = reader.plan(500, None)
    assert len(shards) > 3
    read = [(r.passage_id, r.title, r.text) for shard in shards for r in reader.read(shard, 0, shard.rows)]
    written = [(row["_id"], row["title"], row["text"]) for row in lines(tmp_path / "one/corpus.jsonl")]
    assert read == written
    ids = {passage_id for passage_id, _, _ in read}
    assert len(ids) == len(read)

    header, *judgements = (tmp_path / "one/qrels/test.tsv").read_text(encoding="utf-8").splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    assert [line.split("\t")[0] for line in judgements] == [row["_id"] for row in lines(tmp_path / "one/queries.jsonl")]
    assert {line.split("\t")[1] for line in judgements} <= ids


def test_max_passages_cuts_the_docstrings() -> None:
    reader = open_reader(CorpusSettings(path="pydocs://stdlib,numpy"))  # collected once for this file
    first = reader.plan(100, None)[0]
    assert sum(shard.rows for shard in reader.plan(100, first.rows + 1)) == first.rows + 1


def test_no_package_is_imported(tmp_path: Path) -> None:
    package = tmp_path / "loud"
    package.mkdir()
    words = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen " * 4
    (package / "__init__.py").write_text(f'"""Say in a line what this does.\n\n{words}\n"""\nraise SystemExit(9)\n')
    code = "from generation import pydocs; print(pydocs.judged(('loud',))[0][1])"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "Say in a line what this does\n"


def test_aliases_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = " ".join(f"word{chr(97 + n % 26)}{chr(97 + n // 26)}" for n in range(100))
    (tmp_path / "aliased_docs.py").write_text(
        f'def one():\n    """Name the first thing here.\n\n    {body}\n    """\n'
        f'def two():\n    """Name another thing here.\n\n    {body} 1.0\n    """\n'
        f'def three():\n    """Name a third thing here.\n\n    {body[::-1]}\n    """\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    [(_, docs)] = pydocs.collect(("aliased_docs",))
    assert [doc.name for doc in docs] == ["aliased_docs.one", "aliased_docs.three"]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Sum it.\n\nThe body.", ("Sum it.", "The body.")),
        ("Sum it.\nThe body.", ("Sum it.", "The body.")),
        ("A summary\nover two lines.\n\nThe body.", ("A summary over two lines.", "The body.")),
        ("f(x, y=1) -> int\n\nSum it.\n\nThe body.", ("Sum it.", "The body.")),
        ("\n    Sum it.\n\n    Notes\n    -----\n    The body.", ("Sum it.", "Notes\nThe body.")),
        ("Sum it.", ("Sum it.", "")),
        ("", ("", "")),
    ],
)
def test_a_docstring_splits_into_summary_and_body(raw: str, expected: tuple[str, str]) -> None:
    assert split_docstring(raw) == expected


def test_a_plan_names_no_place_on_the_disk_and_reads_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.py"
    secret.write_text('"""A module.\n\n' + "What nobody else may read. " * 20 + '"""\n')
    reader = open_reader(CorpusSettings(path="pydocs://stdlib"))
    shard = reader.plan(100, None)[0]
    assert not [part for parts in shard.params["files"] for part in parts if Path(part).is_absolute()]
    foreign = replace(shard, params={"files": [[str(secret), "secret", "secret.py"]], "names": ["secret"]})
    with pytest.raises(InputError, match="is not on this machine now"):
        list(reader.read(foreign, 0, 1))
