"""What a terminal shows of a running stage: which of the stages it is, and its whole title."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cluster.watch.phrases import plural
from cluster.watch.progress import Progress, TaskHandle


def drawn(title: str, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    handle = TaskHandle(title, 100, "passages")
    handle.advance(7)
    console.print(handle)
    return console.file.getvalue()


def test_titles_have_the_number_of_their_stage_among_those_of_the_run() -> None:
    said = io.StringIO()
    progress = Progress(console=Console(file=said, width=200))
    progress.expect(["corpus", "queries", "lists"])
    for stage, title in (("corpus", "corpus: passages"), ("queries", "queries"), ("", "after them")):
        progress.enter(stage)
        with progress.task(title, 2, "rows") as bar:
            bar.advance(2)
    lines = said.getvalue().splitlines()
    assert [line.split(": 2 in")[0] for line in lines] == ["[1/3] corpus: passages", "[2/3] queries", "after them"]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_two_long_titles_never_look_alike(width: int) -> None:
    start = "[4/8] embeddings: a-retriever-with-a-long-name, "
    passages, queries = (drawn(start + end, width) for end in ("passages", "queries"))
    assert passages != queries
    for text, end in ((passages, "passages"), (queries, "queries")):
        left = "".join(line.split("  ")[0].split(" ━")[0].strip() for line in text.splitlines()[:3])
        assert end in left.replace(" ", ""), text
        assert "…" not in text


@pytest.mark.parametrize(
    ("unit", "shown"),
    [("passage", "passages"), ("logged query", "logged queries"), ("queries", "queries"),
     ("source × type × sample", "source × type × sample")],
)  # fmt: skip
def test_units_are_counted_in_the_plural(unit: str, shown: str) -> None:
    assert plural(unit) == shown
