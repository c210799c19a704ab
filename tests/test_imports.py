"""The house: imports point one way, between packages and between rooms, and no files import each other in a loop.

Every import counts: at the top of a file, inside a function, and for types alone.
"""

from __future__ import annotations

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "distill", "generation", "launcher", "listwise")
# A package or room imports from those that stand here, and from itself.
MAY_IMPORT = {
    "listwise": {"launcher", "generation", "distill", "cluster"},
    "launcher": {"generation", "distill", "cluster"},
    "generation": {"cluster"},
    "distill": {"cluster"},
    "cluster": set(),
}
# Floors, the lowest first. A file imports from lower floors and from its own room; a room is never imported from below
# or from beside. Files outside of the rooms are rooms of their own.
FLOORS = {
    "distill": (
        {"settings", "collectives", "statistics", "losses", "activations"},
        {"encoders", "lists"},
        {"training", "retrieval"},
        {"teachers", "evaluation"},
    ),
    "cluster": (
        {"provider_keys"},
        {"disclosure", "unicode", "traffic", "import_path", "repeated_ids", "yaml_text"},
        {"errors", "schemas", "settings", "server_failures"},
        {"files", "overwrite"},
        {"mistakes", "weights", "jsonl"},
        {"delimited"},
        {"machines"},
        {"tables"},
        {"workers"},
        {"watch"},
        {"one_process"},
        {"run"},
    ),
}
DOOR = "distill.encoders.compute.choose"  # the only file of its folder that others import


def modules() -> dict[str, Path]:
    """Dotted name of every module of the packages, with its file; a package is its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def imports(name: str) -> frozenset[str]:
    """Modules of this project that a module imports, wherever in its file."""
    known = modules()
    found = set()
    for node in ast.walk(ast.parse(known[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module, f"{name}, line {node.lineno}: a relative import"
            found |= {inner if (inner := f"{node.module}.{each.name}") in known else node.module for each in node.names}
    return frozenset(found & known.keys() - {name})


def room(name: str) -> str:
    """The second part of a module's name; empty for a package itself."""
    return name.split(".")[1] if "." in name else ""


def test_the_tree_is_read():
    assert len(modules()) > 150
    assert "distill.training.step" in modules()
    assert "distill.training.gather" in imports("distill.training.step")


def test_no_files_import_each_other_in_a_loop():
    graph = {name: imports(name) for name in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"imports run in a loop: {' → '.join(reversed(error.args[1]))}")


def test_packages_import_one_way():
    for name in modules():
        package = name.split(".")[0]
        for other in imports(name):
            assert other.split(".")[0] in MAY_IMPORT[package] | {package}, f"{name} imports {other}"


@pytest.mark.parametrize("package", FLOORS)
def test_every_room_stands_on_a_floor(package):
    rooms = {room(name) for name in modules() if name.startswith(f"{package}.")}
    assert rooms == set().union(*FLOORS[package])


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_from_lower_floors_alone(package):
    floor = {each: number for number, rooms in enumerate(FLOORS[package]) for each in rooms}
    for name in modules():
        for other in imports(name):
            if name.startswith(f"{package}.") and other.startswith(f"{package}.") and room(name) != room(other):
                assert floor[room(other)] < floor[room(name)], f"{name} imports {other}"


def test_how_a_pass_is_computed_has_one_door():
    inside = DOOR.rpartition(".")[0]
    for name in modules():
        if name != inside and not name.startswith(f"{inside}."):
            assert not {each for each in imports(name) if each.startswith(f"{inside}.")} - {DOOR}, name


def test_what_a_pass_keeps_knows_nothing_of_encoders():
    for name in modules():
        if name.startswith("distill.activations"):
            assert all(each.startswith(("distill.activations", "cluster")) for each in imports(name)), name


def test_names_are_imported_from_their_files():
    """An `__init__` says what lives in a folder; it hands nothing on. `listwise` is there for people who import it."""
    for name, path in modules().items():
        if path.name == "__init__.py" and name != "listwise":
            assert not imports(name), f"{name} imports {', '.join(imports(name))}"
