"""Aliases are read while what they stand for stays small; values that cannot be converted are told with their line."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from cluster.errors import InputError
from cluster.mistakes import read_yaml
from cluster.yaml_text import UnreadableError, load


def test_aliases_and_merged_sections_are_read() -> None:
    data, _ = load("shared: &s {cpus: 1}\none: *s\ntwo: {<<: *s, gpus: 2}\n")
    assert data == {"shared": {"cpus": 1}, "one": {"cpus": 1}, "two": {"cpus": 1, "gpus": 2}}


def test_an_alias_of_itself_and_one_that_grows_without_end_are_refused_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(yaml.MarkedYAMLError, match="an alias names what it is part of") as found:
        load("a: 1\nb: &b\n  - *b\n")
    assert found.value.problem_mark.line + 1 in (2, 3)
    doubled = "\n".join(f"b{n}: &b{n} [*b{n - 1}, *b{n - 1}]" for n in range(1, 27))
    with pytest.raises(yaml.MarkedYAMLError, match="more than 100,000 values"):
        load(f"b0: &b0 [1]\n{doubled}\n")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("value", "why"), [("9" * 5000, "4300 digits"), ("2021-13-45", "month must be"), ("[1, 2021-02-31]", "day")]
)
def test_a_value_that_cannot_be_converted_is_told_with_its_line(tmp_path: Path, value: str, why: str) -> None:
    with pytest.raises(UnreadableError, match=why) as found:
        load(f"a: 1\nb:\n  c: {value}\n")
    assert found.value.line == 3
    file = tmp_path / "recipe.yaml"
    file.write_text(f"a: 1\nb:\n  c: {value}\n")
    with pytest.raises(InputError, match=r"recipe\.yaml, line 3: this value cannot be read"):
        read_yaml(file, "a recipe")


@pytest.mark.parametrize(
    "text", ["[" * 10**6, "{a: " * 10**5, "- " * 10**5, "? " * 10**5, "\n".join(" " * n + "a:" for n in range(999))]
)
def test_what_is_nested_without_end_is_refused_and_does_not_end_the_process(tmp_path: Path, text: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=r"recipe\.yaml: nested too deeply for a recipe"):
        read_yaml(file, "a recipe")


def test_what_is_nested_deeply_is_read() -> None:
    data, _ = load("[" * 150 + "]" * 150)
    assert str(data) == "[" * 150 + "]" * 150
