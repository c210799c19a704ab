"""Documents that describe the code name only files, functions and classes that are there.

Three forms in backticks are looked at: `folder/file.py`, `folder/file.py: name` and `Class.member`.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "docs" / name for name in ("walk.md", "changing.md", "compute.md")]
FOLDERS = ("cluster", "distill", "generation", "launcher", "benchmarks", "tests")

FENCED = re.compile(r"^```.*?^```", re.M | re.S)
SPAN = re.compile(r"`([^`]+)`")  # a span may go over the end of a line
PYTHON = re.compile(r"(?P<file>[\w/]+\.py)(?:: (?P<name>\w+(?:\.\w+)*))?")
OTHER = re.compile(r"[\w./-]+/(?:[\w.-]+\.(?:yaml|jinja|j2|css|sbatch|md))?")
MEMBER = re.compile(r"(?P<owner>_?[A-Z]\w*)\.(?P<member>\w+)")
LIBRARIES = {"PeftModel", "SentenceTransformer", "Tensor", "TorchTrainer"}  # classes of others that the pages name


@cache
def files() -> frozenset[str]:
    """Paths of all Python files."""
    return frozenset(path.relative_to(ROOT).as_posix() for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


@cache
def names(file: str) -> frozenset[str]:
    """Functions, classes and variables of a module, and of its classes as "Class.member"."""
    return frozenset(_names(ast.parse((ROOT / file).read_text(encoding="utf-8")).body))


def _names(body: list[ast.stmt]) -> set[str]:
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{member}" for member in _names(node.body)}
        for target in node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]:
            if isinstance(target, ast.Name):
                found.add(target.id)
    return found


@cache
def every_name() -> frozenset[str]:
    """Names of all modules."""
    return frozenset().union(*(names(file) for file in files()))


def mistakes(text: str) -> list[str]:
    """What a document names and the tree does not have, in words."""
    return [problem for span in spans(text) if (problem := mistake(span))]


def spans(text: str) -> list[str]:
    """Text in backticks, on one line each, outside of fenced blocks."""
    return [" ".join(span.split()) for span in SPAN.findall(FENCED.sub("", text))]


def mistake(span: str) -> str:
    """Why this span is wrong; empty if it is right, or of none of the forms."""
    if python := PYTHON.fullmatch(span):
        at = [file for file in files() if file == python["file"] or file.endswith(f"/{python['file']}")]
        if len(at) != 1:
            return f"{span}: {'no file' if not at else f'{len(at)} files'} of that name"
        return f"{span}: no such name there" if python["name"] and python["name"] not in names(at[0]) else ""
    if (member := MEMBER.fullmatch(span)) and member["owner"] not in LIBRARIES and span not in every_name():
        return f"{span}: no class has that member"
    if OTHER.fullmatch(span) and span.split("/", maxsplit=1)[0] in FOLDERS and not (ROOT / span).exists():
        return f"{span}: no such file"
    return ""


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert sum(bool(PYTHON.fullmatch(span)) for span in spans(text)) >= 10, "there is something to look at"
    assert mistakes(text) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "distill/training/no_such_file.py",
        "distill/training/step.py: no_such_function",
        "distill/training/step.py: Stepper.no_such_method",
        "distill/training/step.py: plan_step",  # imported there, and another file's
        "distill/training/step.py:\n    no_such_function",
        "stage.py",  # of several folders
        "Stepper.no_such_method",
        "NoSuchClass.run",
        "generation/prompts/no_such_file.yaml",
        "generation/no_such_folder/",
    ],
)
def test_a_made_up_name_is_found(wrong: str) -> None:
    assert len(mistakes(f"A made-up line names `{wrong}` and\n`distill/training/step.py: Stepper.run`.")) == 1


@pytest.mark.parametrize(
    "right",
    [
        "distill/training/step.py: Stepper.run",
        "distill/activations/reuse.py: reusable",
        "distill/retrieval/search.py: Hits.rows",  # a field
        "distill/losses/batch.py: LIST_LOSSES",
        "generation/engines/base.py: Engine.answer",  # a coroutine
        "training/batches.py",
        "Tensor.is_contiguous",
        "generation/prompts/types/",
        "training.without: [reuse]",  # of a recipe
    ],
)
def test_a_name_that_is_there_is_no_mistake(right: str) -> None:
    assert mistakes(f"`{right}`") == []
