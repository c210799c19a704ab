"""YAML as people write it, or somebody who means harm: aliases are allowed while what they stand for stays small.

An alias costs nothing where it stands, and everything where its value is walked through: 26 lines that each name the
one before twice are 67 million values, and one that names itself never ends.
"""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000  # of a document, aliases written out
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is much faster
MOST_NESTED = 200  # levels; libyaml's composer calls itself for each, and would end the process without a word


def load(text: str | bytes) -> tuple[Any, yaml.Node | None]:
    """The data of a document, and its tree of nodes, which know their lines.

    Raises:
        yaml.YAMLError: it is no YAML, or holds an alias that is refused; the error has the place where it has one.
        RecursionError: it is nested too deeply.
        UnreadableError: a value cannot be converted from text.
    """
    try:
        _check_depth(text)
        node = yaml.compose(text, Loader=Loader)
    except yaml.YAMLError:
        yaml.compose(text, Loader=yaml.SafeLoader)  # it says better where the mistake is
        raise
    if node is not None:
        _count(node, {}, set())
    try:
        return Loader(text).get_single_data(), node
    except ValueError as error:  # Python converts no more than 4,300 digits to an integer; dates have ranges
        raise UnreadableError(str(error), _line_of_unreadable(node)) from None


def _check_depth(text: str | bytes) -> None:
    """Raises RecursionError where collections are nested too deeply; the parser's events need no recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_NESTED:
            raise RecursionError(f"more than {MOST_NESTED} levels")


class UnreadableError(ValueError):
    """A value that cannot be converted from text. `line` counts from 1; None if it is not known."""

    def __init__(self, why: str, line: int | None) -> None:
        super().__init__(why)
        self.line = line


def _count(node: yaml.Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """Number of values below a node, aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_nodes:
        raise yaml.MarkedYAMLError(problem="an alias names what it is part of", problem_mark=node.start_mark)
    open_nodes.add(id(node))
    total = 1 + sum(_count(part, known, open_nodes) for part in _parts(node))
    open_nodes.discard(id(node))
    if total > MOST_VALUES:
        problem = f"with its aliases written out it has more than {MOST_VALUES:,} values"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
    known[id(node)] = total
    return total


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _line_of_unreadable(node: yaml.Node | None) -> int | None:
    loader = Loader("")
    pending = [node] if node is not None else []
    while pending:
        one = pending.pop()
        pending += _parts(one)
        if isinstance(one, yaml.ScalarNode):
            try:
                loader.construct_object(one)
            except ValueError:
                return int(one.start_mark.line) + 1
    return None
