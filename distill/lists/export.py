"""The lists of a run as a file of JSON lines, in the layout that `scored_file` reads."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from cluster.errors import InputError
from cluster.tables.row_reader import RowReader
from cluster.tables.table import Table

LISTS_AT_ONCE = 500
TEXT_BYTES = 1 << 30  # of passages that are kept for the lists that follow


def export(lists: Table, passages: Table, file: Path) -> int:
    """Writes one query a line, with id, title, text and scaled score of its passages, best first.

    The file appears under its name when it is whole, and never in the place of another file.

    Args:
        lists: LISTS, complete.
        passages: PASSAGES of the same run.
        file: gzipped if its name ends in .gz.

    Returns:
        The number of lists.

    Raises:
        InputError: the file exists, or cannot be written.
    """
    if file.exists():
        raise InputError(f"--export {file}: the file exists already and is not replaced. Name another file.")
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with _open(part, file.suffix == ".gz") as stream:
            count = 0
            for line in _lines(lists, passages):
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                count += 1
        part.rename(file)
    except OSError as error:
        raise InputError(f"--export {file}: cannot be written ({error.strerror}). Name a file in a folder.") from None
    finally:
        part.unlink(missing_ok=True)
    return count


def _open(path: Path, is_zipped: bool) -> IO[str]:
    if is_zipped:
        return gzip.open(path, "wt", encoding="utf-8")
    return path.open("w", encoding="utf-8")


def _lines(lists: Table, passages: Table) -> Iterator[dict[str, Any]]:
    rows = RowReader(lists, ["query_id", "text", "passage_rows", "scores"], budget_bytes=0)
    texts = RowReader(passages, ["passage_id", "title", "text"], TEXT_BYTES)
    for start in range(0, len(rows), LISTS_AT_ONCE):
        block = rows.range(start, min(start + LISTS_AT_ONCE, len(rows)))
        wanted = np.unique(block["passage_rows"].combine_chunks().flatten().to_numpy())
        known = dict(zip(wanted.tolist(), _passages(texts.take(wanted)), strict=True))
        for row in block.to_pylist():
            yield {
                "query_id": row["query_id"],
                "query": row["text"],
                "passages": [
                    known[number] | {"score": _short(score)}
                    for number, score in zip(row["passage_rows"], row["scores"], strict=True)
                ],
            }


def _passages(rows: pa.Table) -> Iterator[dict[str, str]]:
    """Each with its title only where it has one."""
    for row in rows.to_pylist():
        title = {"title": row["title"]} if row["title"] else {}
        yield {"docid": row["passage_id"], **title, "text": row["text"]}


def _short(score: float) -> float:
    """The shortest decimal number that is this float32."""
    return float(str(np.float32(score)))
