"""The choice of a reader by the format of the corpus, which the recipe names or the suffix of the files shows."""

from __future__ import annotations

import shlex
from pathlib import Path

from cluster.errors import InputError
from cluster.files.folder import list_files
from cluster.files.names import find_named, has_ending, plain_name
from generation.documents import reader as documents
from generation.readers import delimited, hf, jsonl, parquet
from generation.readers.base import Reader
from generation.readers.delimited import DelimitedReader
from generation.readers.fields import Fields
from generation.readers.hf import HfReader
from generation.readers.jsonl import JsonlReader
from generation.readers.parquet import ParquetReader
from generation.readers.pydocs import PydocsReader
from generation.settings import CorpusSettings

_SUFFIXES = {"jsonl": jsonl.SUFFIXES, "csv": delimited.SUFFIXES, "parquet": parquet.SUFFIXES}
BEIR_CORPUS = "corpus.jsonl"


def open_reader(corpus: CorpusSettings) -> Reader:
    """The reader of the recipe's corpus.

    Raises:
        InputError: the corpus does not exist, or its format is unknown.
    """
    fields = Fields.of(corpus)
    kind = corpus.format if corpus.format != "auto" else find_format(corpus.path)
    if kind == "pydocs":
        return PydocsReader(corpus.path)
    if kind == "hf":
        return HfReader(corpus.path.removeprefix(hf.PREFIX), corpus.hf_config, corpus.hf_split, fields)
    path = Path(corpus.path).expanduser().absolute()
    if kind == "beir":
        return _open_beir(path, fields) if path.is_dir() else JsonlReader(path, fields)
    if kind == "csv":
        return DelimitedReader(path, fields, corpus.quoting, tuple(corpus.columns) if corpus.columns else None)
    return ParquetReader(path, fields) if kind == "parquet" else JsonlReader(path, fields)


def _open_beir(folder: Path, fields: Fields) -> JsonlReader:
    names = list_files(folder, jsonl.SUFFIXES).names
    beside = [name for name in names if plain_name(Path(name).name) not in (BEIR_CORPUS, "queries.jsonl")]
    return JsonlReader(find_named(folder, BEIR_CORPUS) or folder / BEIR_CORPUS, fields, tuple(beside))


def holds_documents(corpus: CorpusSettings) -> bool:
    """Whether the corpus is documents: as the recipe says, or since no file of a table stands where they are."""
    if corpus.format != "auto":
        return corpus.format == "documents"
    path = Path(corpus.path).expanduser()
    if "://" in corpus.path or not path.exists():
        return False
    tables = tuple(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
    if path.is_dir() and any(has_ending(file.name, tables) for file in path.iterdir()):
        return False
    return documents.holds_documents(path)


def find_format(location: str) -> str:
    """Format of a corpus, by the scheme of its address, the files of its folder, or the suffix of its file.

    Raises:
        InputError: the corpus does not exist, or its format is unknown or ambiguous; lists the formats.
    """
    for kind in ("pydocs", "hf"):
        if location.startswith(f"{kind}://"):
            return kind
    path = Path(location).expanduser()
    known = (
        "a BEIR folder (with corpus.jsonl), .jsonl, .csv, .tsv or .parquet files (all but the last also .gz, .bz2, "
        ".xz or .zst), a folder of .txt, .md, .html, .pdf or .docx documents, hf://DATASET, or pydocs://PACKAGES"
    )
    if not path.exists():
        raise InputError(
            f"corpus.path: there is no file or folder {location}. Expected {known}. Check the spelling. Relative paths "
            f"begin at the directory in which listwise is called."
        )
    if path.is_dir() and find_named(path, BEIR_CORPUS):
        return "beir"
    every = [suffix for suffixes in _SUFFIXES.values() for suffix in suffixes]
    names = list_files(path, every).names if path.is_dir() else [path.name]
    kinds = [kind for kind, suffixes in _SUFFIXES.items() if any(has_ending(name, suffixes) for name in names)]
    if len(kinds) == 1:
        return kinds[0]
    content = f"files of several formats ({', '.join(kinds)})" if kinds else "no file of a known format"
    if path.name.lower().endswith(".json"):
        known += ". If each line of the file is an object, set corpus.format=jsonl; a list becomes such a file with: "
        known += f"jq -c '.[]' {shlex.quote(str(path))} > {shlex.quote(str(path.with_suffix('.jsonl')))}"
    raise InputError(
        f"corpus.path: {location} holds {content}. Expected {known}. Set corpus.format, or name another path."
    )
