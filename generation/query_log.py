"""The query log: real queries of users, without labels, mixed with the written ones.

The file is read once on the driver, which finds every mistake in it before a worker starts, and cuts it into byte
ranges.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import LOG_TYPE, QUERY_LOG
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.unicode import is_valid_utf8, valid_utf8
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.masking import Personal, is_only_masks, mask
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


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
        InputError: the file is not there, or a line is no JSON object with a unique `_id` and a `text`.
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
    """Looks whether the log is there.

    Raises:
        InputError: it is not.
    """
    if not Path(path).is_file():
        raise InputError(
            f"corpus.query_log: {path} is no file. Expected JSONL with one query a line, "
            f'such as {{"_id": "1", "text": "how to store pears"}}. Correct the path, or leave query_log out.'
        )


def scan(path: str, rows_per_shard: int) -> LogFile:
    """Checks every line of a query log and cuts it into shards of at most `rows_per_shard` lines.

    Raises:
        InputError: names the file, the line, what stands there and what was expected.
    """
    check(path)
    digest = hashlib.sha256()
    shards: list[Shard] = []
    first_seen: dict[bytes, int] = {}  # short digests: the ids of a long log need not all be held
    offset = start = first = number = 0
    with Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            digest.update(line)
            offset += len(line)
            query = parse(line, path, number)
            if query is not None:
                key = hashlib.blake2b(query[0].encode(), digest_size=12).digest()
                if (earlier := first_seen.setdefault(key, number)) != number:
                    raise InputError(
                        f"{path}, line {number}: _id {query[0]!r} stands in line {earlier} already. "
                        f"Expected an _id of its own for every query."
                    )
            if number - first == rows_per_shard:
                shards.append(_shard(len(shards), start, offset, first, number))
                start, first = offset, number
    if number > first:
        shards.append(_shard(len(shards), start, offset, first, number))
    if not first_seen:
        raise InputError(f"corpus.query_log: {path} holds no query. Add some, or leave query_log out.")
    return LogFile(shards, digest.hexdigest())


def parse(line: bytes, path: str, number: int) -> tuple[str, str] | None:
    """Id and text of a line, the text NFKC-normalised with single spaces; None if the line is blank.

    Raises:
        InputError: the line is no JSON object with `_id` and `text`.
    """
    if number == 1:
        line = line.removeprefix(_BYTE_ORDER_MARK)
    if not line.strip():
        return None
    expected = 'Expected an object such as {"_id": "1", "text": "how to store pears"}.'
    try:
        record = json.loads(line.decode())
    except ValueError as error:  # of the decoding or of the JSON
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise InputError(f"{path}, line {number}: no JSON ({reason}). {expected}") from None
    if not isinstance(record, dict):
        raise InputError(f"{path}, line {number}: found {_kind(record)}. {expected}")
    identity, text = record.get("_id"), record.get("text")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise InputError(f"{path}, line {number}: field _id is {_kind(identity)}. {expected}")
    if not isinstance(text, str):
        raise InputError(f"{path}, line {number}: field text is {_kind(text)}. {expected}")
    if not is_valid_utf8(str(identity)):
        raise InputError(f"{path}, line {number}: field _id {identity!r} holds half of a surrogate pair. {expected}")
    return str(identity), " ".join(unicodedata.normalize("NFKC", valid_utf8(text)).split())


class QueryLogWorker:
    """Reads a byte range of the log, and masks what names a person (`generation.masking`)."""

    def __init__(self, path: str, masked: Sequence[Personal], regions: Sequence[str]) -> None:
        self.path = path
        self.masked = masked
        self.regions = regions

    def process(self, task: Task) -> Output:
        """Lines of the shard to rows of QUERY_LOG; lines without text, and those of masks alone, are drops."""
        kept = []
        found: Counter[Personal] = Counter()
        nothing_left = 0
        for identity, text in self._queries(task):
            shown, here = mask(text, self.masked, self.regions)
            found += here
            if here and is_only_masks(shown):
                nothing_left += 1
            elif text:
                kept.append(
                    {"query_id": f"log:{identity}", "source_id": None, "query_type": LOG_TYPE, "text": shown,
                     "sample": 0}
                )  # fmt: skip
        rows = pa.Table.from_pylist(kept, schema=QUERY_LOG.schema)
        drops = {"empty": task.stop - task.start - len(kept) - nothing_left, "only_personal": nothing_left}
        return Output(rows, drops, stats={f"masked_{kind}": count for kind, count in found.items()})

    def _queries(self, task: Task) -> Iterator[tuple[str, str]]:
        params: dict[str, Any] = task.shard.params
        with Path(self.path).open("rb") as file:
            file.seek(params["start"])
            # not splitlines(): that would also split where a lone carriage return stands
            lines = file.read(params["stop"] - params["start"]).split(b"\n")
        first = params["first_line"]
        for position in range(task.start, task.stop):
            query = parse(lines[position], self.path, first + position)
            if query is not None:
                yield query


def _shard(number: int, start: int, stop: int, lines_before: int, last: int) -> Shard:
    params = {"start": start, "stop": stop, "first_line": lines_before + 1}
    return Shard(f"{number:05d}", last - lines_before, params=params)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "empty or a string", bool: "a boolean", type(None): "missing"}
    return names.get(type(value), "a number")
