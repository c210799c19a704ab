"""Token files of a training: written once for these texts and this student, by all ranks together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from cluster.tables.table import Table
from distill.collectives import run_on_rank_0
from distill.encoders.reading import Reading
from distill.encoders.texts import passage_text
from distill.encoders.tokens import TokenFile, parts, write_tokens
from distill.settings.encoders import StudentSettings
from distill.training.list_arrays import ListArrays

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


@dataclass(frozen=True)
class Source:
    """Texts of one token file: how many, those of rows `start` to `stop`, and how the student reads them."""

    rows: int
    texts: Callable[[int, int], Iterable[str]]
    reading: Reading


def tokenise(
    folder: Path,
    identity: dict[str, Any],
    student: StudentSettings,
    lists: dict[str, ListArrays],
    passages: Table,
    model: SentenceTransformer,
) -> dict[str, TokenFile]:
    """Token files "train", "dev" and "passages"; every rank calls it, writes its parts, and maps all of them.

    Args:
        folder: where all ranks read and write.
        identity: JSON; all that decides what is in the files.
        student: its lengths and prompts.
        lists: "train" and "dev", whose queries are tokenised.
        passages: PASSAGES.
        model: the student, with its prompts.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    queries, documents = Reading.of(model, "query", student), Reading.of(model, "document", student)
    sources = {name: Source(len(part), _queries(part), queries) for name, part in lists.items()}
    sources["passages"] = Source(passages.num_rows, lambda start, stop: passage_texts(passages, start, stop), documents)
    files = {
        name: [folder / key / f"{name}-{number:02d}.arrow" for number in range(len(parts(source.rows)))]
        for name, source in sources.items()
    }
    missing = run_on_rank_0(
        lambda: [
            (name, number) for name, paths in files.items() for number, path in enumerate(paths) if not path.exists()
        ]
    )
    for name, number in missing[dist.get_rank() :: dist.get_world_size()]:
        source = sources[name]
        texts = source.texts(*parts(source.rows)[number])
        write_tokens(files[name][number], texts, source.reading.token_ids)
    dist.barrier()
    return {
        name: TokenFile(*paths, constants=sources[name].reading.constants(), is_bag=sources[name].reading.is_bag)
        for name, paths in files.items()
    }


def passage_texts(passages: Table, start: int, stop: int) -> Iterable[str]:
    """Passages of rows `start` to `stop`, as the student reads them; only data files that hold some are read."""
    begin = 0
    for path, rows in passages.files():
        first, last = max(start - begin, 0), min(stop - begin, rows)
        begin += rows
        if first < last:
            batch = passages.read_file(path, ["title", "text"]).slice(first, last - first)
            for title, text in zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True):
                yield passage_text(title, text)


def _queries(lists: ListArrays) -> Callable[[int, int], Iterable[str]]:
    return lambda start, stop: lists.texts[start:stop].to_pylist()
