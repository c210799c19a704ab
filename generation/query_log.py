"""The query log: real queries of users, without labels, mixed with the written ones.

The file is read once on the driver, which finds every mistake in it before a worker starts, and cuts it into shards of
consecutive lines.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import InputError
from cluster.jsonl import Line, read_id, read_lines, read_text
from cluster.schemas import QUERY_LOG
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

LOG_TYPE = "log"
EXAMPLE = '{"_id": "1", "text": "how to store pears"}'


@dataclass(frozen=True)
class LogFile:
    """A checked query log: its shards, and the checksum of its bytes."""

    shards: list[Shard]
    sha256: str


def build(run: Run, corpus: CorpusSettings) -> Table | None:
    """Reads the query log of the recipe, if it names one.

    Returns:
        QUERY_LOG in the order of the file, with no source; None without `corpus.query_log`.

    Raises:
        InputError: the file is not there, or a line holds no JSON object with a unique `_id` and a `text`.
    """
    if corpus.query_log is None:
        return None
    log = scan(corpus.query_log, corpus.rows_per_shard)
    return run.execute(
        Stage(
            title="query log",
            table=QUERY_LOG,
            path=QUERY_LOG.path,
            worker=QueryLogWorker,
            arguments={"path": str(Path(corpus.query_log).absolute())},
            shards=log.shards,
            fingerprint={"query_log": log.sha256},
            pool=run.settings.io_pool,
        )
    )


def check(path: str) -> None:
    """Looks whether the log is there.

    Raises:
        InputError: it is not.
    """
    if not Path(path).is_file():
        raise InputError(
            f"corpus.query_log: {path} is no file. Expected JSONL with one query on each line, such as {EXAMPLE}. "
            f"Correct the path, or leave query_log out."
        )


def scan(path: str, rows_per_shard: int) -> LogFile:
    """Checks every line of a query log and cuts it into shards of at most `rows_per_shard` lines.

    Raises:
        InputError: names the file, the line, what stands there and what was expected.
    """
    check(path)
    digest = hashlib.sha256()
    shards: list[Shard] = []
    first_seen: dict[bytes, int] = {}  # short digests, so that the ids of a long log are not all in memory
    first: Line | None = None
    rows = 0
    for line in _lines(path):
        digest.update(line.content)
        if (query := parse(line)) is not None:
            key = hashlib.blake2b(query[0].encode(), digest_size=12).digest()
            if (earlier := first_seen.setdefault(key, line.number)) != line.number:
                raise InputError(
                    f"{line.place}: the _id {query[0]!r} is in line {earlier} already. Every query needs its own _id."
                )
        first = first or line
        rows = line.number - first.number + 1
        if rows == rows_per_shard:
            shards.append(_shard(len(shards), first, rows))
            first = None
    if first is not None:
        shards.append(_shard(len(shards), first, rows))
    if not first_seen:
        raise InputError(f"corpus.query_log: {path} holds no query. Add some, or leave query_log out.")
    return LogFile(shards, digest.hexdigest())


def parse(line: Line) -> tuple[str, str] | None:
    """Id and text of a line, the text NFKC-normalised with single spaces; None if the line is blank.

    Raises:
        InputError: the line holds no JSON object with `_id` and `text`.
    """
    if line.is_blank:
        return None
    record = line.json_object(EXAMPLE)
    advice = f"Correct the line; a query is an object such as {EXAMPLE}."
    text = read_text(record, "text", line.place, advice)
    return read_id(record, "_id", line.place, advice), " ".join(unicodedata.normalize("NFKC", text).split())


class QueryLogWorker:
    """Reads the lines of a shard."""

    def __init__(self, path: str) -> None:
        self.path = path

    def process(self, task: Task) -> Output:
        """Lines of the shard to rows of QUERY_LOG; lines without text are drops."""
        kept = []
        for identity, text in self._queries(task):
            if text:
                kept.append(
                    {"query_id": f"log:{identity}", "source_id": None, "query_type": LOG_TYPE, "text": text,
                     "sample": 0}
                )  # fmt: skip
        rows = pa.Table.from_pylist(kept, schema=QUERY_LOG.schema)
        return Output(rows, {"empty": task.stop - task.start - len(kept)})

    def _queries(self, task: Task) -> Iterator[tuple[str, str]]:
        lines = _lines(self.path, task.shard.params["start"], task.shard.params["first_line"])
        for line in itertools.islice(lines, task.start, task.stop):
            if (query := parse(line)) is not None:
                yield query


def _lines(path: str, offset: int = 0, number: int = 1) -> Iterator[Line]:
    advice = "Every machine of the cluster must see the query log under this path."
    return read_lines(Path(path), advice, offset, number)


def _shard(number: int, first: Line, rows: int) -> Shard:
    return Shard(f"{number:05d}", rows, params={"start": first.offset, "first_line": first.number})
