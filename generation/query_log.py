"""The query log: real queries of users, without labels, which are used beside the synthetic queries.

The driver reads the whole file first. It finds every mistake before a worker starts, and cuts the file into shards of
consecutive lines.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import InputError
from cluster.jsonl import Line, read_id, read_lines, read_text
from cluster.schemas import LOG_TYPE, QUERY_LOG
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.masking import Personal, is_only_masks, mask
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

EXAMPLE = '{"_id": "1", "text": "how to store pears"}'


@dataclass(frozen=True)
class LogFile:
    """A checked query log.

    Attributes:
        shards: shards of consecutive lines.
        sha256: checksum of the (decompressed) content.
    """

    shards: list[Shard]
    sha256: str


def build(run: Run, corpus: CorpusSettings) -> Table | None:
    """Reads the query log of the recipe, if it names one.

    Returns:
        QUERY_LOG in the order of the file; its queries have no source. None without `corpus.query_log`.

    Raises:
        InputError: the file does not exist, or a line holds no JSON object with a unique `_id` and a `text`.
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
            arguments={
                "path": str(Path(corpus.query_log).absolute()),
                "masked": corpus.query_log_mask,
                "regions": corpus.query_log_phone_regions,
            },
            shards=log.shards,
            fingerprint={
                "query_log": log.sha256,
                "mask": sorted(corpus.query_log_mask),
                "phone_regions": corpus.query_log_phone_regions,
            },
            pool=run.settings.io_pool,
        )
    )


def check(path: str) -> None:
    """Checks that the query log exists.

    Raises:
        InputError: it does not.
    """
    if not Path(path).is_file():
        raise InputError(
            f"corpus.query_log: {path} is not a file. Expected JSONL with one query on each line, such as {EXAMPLE}. "
            f"Correct the path, or leave query_log out."
        )


def scan(path: str, rows_per_shard: int) -> LogFile:
    """Checks every line of a query log and cuts it into shards of at most `rows_per_shard` lines.

    Raises:
        InputError: the file does not exist or holds no query, or a line is malformed; names file, line and cause.
    """
    check(path)
    digest = hashlib.sha256()
    shards: list[Shard] = []
    line_of_id: dict[bytes, int] = {}  # by short digests: the ids of a long log take too much memory
    first: Line | None = None
    rows = 0
    for line in _lines(path):
        digest.update(line.content)
        if (query := parse(line)) is not None:
            key = hashlib.blake2b(query[0].encode(), digest_size=12).digest()
            earlier = line_of_id.setdefault(key, line.number)
            if earlier != line.number:
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
    if not line_of_id:
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
    """Reads the lines of a shard, and masks what names a person (`generation/masking.py`)."""

    def __init__(self, path: str, masked: Sequence[Personal], regions: Sequence[str]) -> None:
        self.path = path
        self.masked = masked
        self.regions = regions

    def process(self, task: Task) -> Output:
        """Rows of QUERY_LOG for lines of the shard; lines without text, and those of masks alone, are drops."""
        rows = []
        counts: Counter[Personal] = Counter()
        only_masks = 0
        for query_id, text in self._queries(task):
            masked, masks = mask(text, self.masked, self.regions)
            counts += masks
            if masks and is_only_masks(masked):
                only_masks += 1
            elif text:
                rows.append(
                    {
                        "query_id": f"log:{query_id}",
                        "source_id": None,
                        "query_type": LOG_TYPE,
                        "text": masked,
                        "sample": 0,
                    }
                )
        table = pa.Table.from_pylist(rows, schema=QUERY_LOG.schema)
        drops = {"empty": task.stop - task.start - len(rows) - only_masks, "only_personal": only_masks}
        return Output(table, drops, stats={f"masked_{kind}": count for kind, count in counts.items()})

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
