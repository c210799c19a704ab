"""What README and guides say exists as it is written: commands, options, fields that --set names, links, decisions."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from cluster.mistakes import known_keys
from launcher.cli import app
from launcher.recipe import Recipe

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)
LINK = re.compile(r"\]\(([^)\s:#]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.M)
ENTRY = re.compile(r"^## (.+)$", re.M)
PLACEHOLDER = re.compile(r"[A-Z]{2,}|…|\[|\$|\bN\b|\bM\b")


def commands(page: Path) -> list[str]:
    """Lines of fenced blocks that call listwise, without those that stand for many."""
    lines = (line for block in FENCED.findall(page.read_text()) for line in block.replace("\\\n", " ").splitlines())
    called = (
        re.search(r"(?:^|\s|/)listwise (.*)", line.partition("   #")[0]) for line in lines if line[:1] not in "#>"
    )
    return [found[1].strip() for found in called if found and not PLACEHOLDER.search(found[1])]


WRITTEN = [(page, command) for page in PAGES for command in commands(page)]


def test_there_are_commands_to_look_at() -> None:
    assert len(WRITTEN) >= 12


@pytest.mark.parametrize(("page", "command"), WRITTEN, ids=lambda value: str(value).removeprefix(f"{ROOT}/")[:60])
def test_a_command_of_the_documentation_is_one_that_listwise_takes(page: Path, command: str) -> None:
    words = shlex.split(re.split(r"\s[|&;>]", command)[0])
    group = typer.main.get_command(app)
    chosen = group.commands[words[0]]  # type: ignore[attr-defined]
    context = chosen.make_context(words[0], list(words[1:]))
    assert context.args == []
    for change in context.params.get("changes") or []:
        way = change.partition("=")[0].split(".")
        assert way[-1] in known_keys(Recipe, tuple(way[:-1])), f"{page.name}: --set {change}"


def anchors(page: Path, headings: re.Pattern[str] = HEADING) -> set[str]:
    """What a link writes for the headings of a page: small letters, digits and dashes for spaces."""
    found = headings.findall(FENCED.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for name, anchor in LINK.findall(FENCED.sub("", page.read_text())):
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{name} is not there"
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}: no such heading"


def test_every_decision_has_its_row() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    index = next(page for page in pages if page.name == "README.md")
    rows = set(LINK.findall(index.read_text()))
    entries = {(page.name, entry) for page in pages if page != index for entry in anchors(page, ENTRY)}
    assert len(entries) > 100
    assert entries - rows == set()
