"""Docstrings of installed Python packages. Files are parsed with `ast`; no package is imported.

Each docstring is split into its summary, in which the author names the object, and its body, which is the rest.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import inspect
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import InputError

STDLIB = "stdlib"
MIN_BODY_CHARACTERS = 200
MAX_SUMMARY_CHARACTERS = 200
_SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "test", "tests", "testing", "idle_test", "idlelib", "lib2to3", "turtledemo", "ensurepip"}
    | {"site-packages", "dist-packages", "vendor", "_vendor", "examples", "_examples"}
)
_UNDERLINE = re.compile(r"^\s*([-=~^\"*+#])\1{2,}\s*$")
_SIGNATURE = re.compile(r"^[\w.]+\s*(\(.*\)|=\s*[\w.]+\s*\(.*\))(\s*->.*)?$", re.DOTALL)
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)`'\"\]]{2}[.!?])\s+(?=[A-Z`\"'])")


@dataclass(frozen=True)
class Docstring:
    """Docstring of a module, class or function.

    Attributes:
        name: dotted name of the object.
        summary, body: parts of the docstring.
        file, line: position of the docstring.
    """

    name: str
    summary: str
    body: str
    file: str
    line: int


@dataclass(frozen=True)
class SourceFile:
    """One file of a package.

    Attributes:
        path: absolute path.
        module: dotted name.
        shown: path from the parent folder of the package, for messages.
    """

    path: str
    module: str
    shown: str

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return Path(self.path).stat().st_size


def package_root(package: str) -> Path:
    """Folder of an installed package, or its file if it has only one; `stdlib` is the standard library.

    Raises:
        InputError: the package is not installed, or has no Python source.
    """
    if package == STDLIB:
        return Path(sysconfig.get_paths()["stdlib"])
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec is not None and spec.origin and spec.origin.endswith(".py"):
        return Path(spec.origin)
    raise InputError(
        f"pydocs://{package}: no Python package '{package}' is installed here. Expected top-level packages separated "
        f"by commas, such as pydocs://stdlib,numpy. Install the package, or remove it from the list."
    )


def package_version(package: str) -> str:
    """Version of an installed package, or of Python for `stdlib`; empty if it is unknown."""
    if package == STDLIB:
        return sysconfig.get_config_var("py_version") or ""
    try:
        names = importlib.metadata.packages_distributions().get(package, [package])
        return importlib.metadata.version(names[0])
    except importlib.metadata.PackageNotFoundError:
        return ""


def source_files(package: str) -> list[SourceFile]:
    """Source files of a package in the order of their paths, without tests and vendored code.

    Raises:
        InputError: the package is not installed.
    """
    root = package_root(package)
    if root.is_file():
        return [SourceFile(str(root), package, root.name)]
    parent = root if package == STDLIB else root.parent
    files = []
    for path in sorted(root.rglob("*.py")):
        if _SKIPPED_FOLDERS.isdisjoint(path.relative_to(root).parts[:-1]):
            inside = path.relative_to(parent)
            parts = inside.with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
            files.append(SourceFile(str(path), ".".join(parts), inside.as_posix()))
    return files


def file_docstrings(file: SourceFile) -> list[Docstring]:
    """Docstrings with a body of at least 200 characters, in the order of the file; names and bodies are unique."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of invalid escapes in the package's code
            tree = ast.parse(Path(file.path).read_bytes())
    except (SyntaxError, ValueError):
        return []  # a template, or a file of another language that ends in .py
    docstrings: dict[str, Docstring] = {}
    for name, raw, line in _documented(tree, file.module):
        summary, body = split_docstring(raw)
        if len(body) < MIN_BODY_CHARACTERS or not summary or any(body == other.body for other in docstrings.values()):
            continue
        unique, number = name, 1
        while unique in docstrings:
            number += 1
            unique = f"{name}#{number}"
        docstrings[unique] = Docstring(unique, summary, body, file.shown, line)
    return list(docstrings.values())


def split_docstring(raw: str) -> tuple[str, str]:
    """Splits a docstring into summary and body.

    The summary is the first line if it ends with a full stop, or else the first paragraph, or the first sentence of a
    long paragraph. A call signature above the summary is left out, and so are lines that underline headings.
    """
    lines = [line for line in inspect.cleandoc(raw).splitlines() if not _UNDERLINE.match(line)]
    paragraphs = [part.strip("\n") for part in re.split(r"\n\s*\n", "\n".join(lines).strip())]
    while paragraphs and _SIGNATURE.match(paragraphs[0].strip()):
        del paragraphs[0]
    if not paragraphs:
        return "", ""
    first = paragraphs[0].splitlines()
    while len(first) > 1 and _SIGNATURE.match(first[0].strip()):
        del first[0]
    if len(first) > 1 and first[0].rstrip().endswith("."):
        summary, rest = first[0], "\n".join(first[1:])
    else:
        summary, rest = " ".join(first), ""
        if len(summary) > MAX_SUMMARY_CHARACTERS:
            sentences = _SENTENCE_END.split(summary, maxsplit=1)
            summary, rest = sentences[0], " ".join(sentences[1:])
    body = "\n\n".join(part for part in [rest, *paragraphs[1:]] if part.strip())
    return " ".join(summary.split()), body.strip()


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, str, int]]:
    """Dotted name, docstring and line of every documented object, in the order of the file."""
    scopes: list[tuple[ast.AST, str]] = [(tree, module)]
    while scopes:
        node, name = scopes.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body
            first = body[0] if body else None
            if first is not None and (text := ast.get_docstring(node, clean=False)):
                yield name, text, first.lineno
        elif isinstance(node, ast.Call):
            yield from _newdoc(node, module)
            continue
        scopes.extend(reversed(list(_children(node, name))))


def _children(node: ast.AST, name: str) -> Iterator[tuple[ast.AST, str]]:
    """Nodes below a node that may have docstrings, with their dotted names."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child, f"{name}.{child.name}"
        elif isinstance(child, ast.Expr) and isinstance(child.value, ast.Call):
            yield child.value, name
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.For | ast.ExceptHandler):
            yield child, name


def _newdoc(call: ast.Call, module: str) -> Iterator[tuple[str, str, int]]:
    """Docstrings of compiled functions, which NumPy and SciPy write as `add_newdoc(place, name, doc)`."""
    function = call.func.id if isinstance(call.func, ast.Name) else ""
    if function != "add_newdoc" or not call.args:
        return
    *names, last = call.args
    parts = [value.value for value in names if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    if isinstance(last, ast.Tuple) and len(last.elts) == 2 and isinstance(last.elts[0], ast.Constant):
        parts.append(str(last.elts[0].value))
        last = last.elts[1]
    if isinstance(last, ast.Constant) and isinstance(last.value, str) and parts:
        prefix = [] if "." in parts[0] else [module.rsplit(".", 1)[0]]
        yield ".".join([*prefix, *parts]), last.value, last.lineno
