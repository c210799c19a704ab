"""The query log: real queries of users, without labels, which are used beside the synthetic queries.

The driver reads all of it first. It finds every mistake before a worker starts, and cuts the files into shards of
consecutive lines. Queries that the evaluation judges are left out: a student that was trained on them would be judged
on what it has seen.
"""

from __future__ import annotations

import hashlib
import itertools
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import InputError
from cluster.files.folder import list_files, planned_file
from cluster.jsonl import Line, read_id, read_lines, read_text
from cluster.repeated_ids import RepeatedIds
from cluster.schemas import LOG_TYPE, QUERY_LOG
from cluster.tables.commit import drops_of
from cluster.tables.dropped import Dropped
from cluster.tables.plan import Shard
from cluster.tables.table import Table
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation.masking import Personal, is_only_masks, mask
from generation.settings import CorpusSettings

if TYPE_CHECKING:
    from cluster.run import Run

_AROUND = " .,;:!?¿¡…。！？؟।\"'`„“”‚‘’«»()[]"  # what may stand around a query without changing what it asks
ENDINGS = (".jsonl", ".ndjson")
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


def build(run: Run, corpus: CorpusSettings, judged: Mapping[str, str] | None = None) -> Table | None:
    """Reads the query log of the recipe, if it names one.

    Args:
        run: the run.
        corpus: names the log, and what is masked in it.
        judged: id and text of the queries that the evaluation judges.

    Returns:
        QUERY_LOG in the order of the file; its queries have no source. None without `corpus.query_log`.

    Raises:
        InputError: the file does not exist, or a line holds no JSON object with a unique `_id` and a `text`.
    """
    if corpus.query_log is None:
        return None
    log = scan(corpus.query_log, corpus.rows_per_shard)
    judged = judged or {}
    ids, texts = sorted(judged), sorted({asked_text(text) for text in judged.values()})
    left_out = {"judged": hashlib.sha256("\0".join([*ids, "", *texts]).encode()).hexdigest()} if judged else {}
    table = run.execute(
        Stage(
            title="query log",
            table=QUERY_LOG,
            path=QUERY_LOG.path,
            worker=QueryLogWorker,
            arguments={
                "path": str(Path(corpus.query_log).absolute()),
                "masked": corpus.query_log_mask,
                "regions": corpus.query_log_phone_regions,
                "judged_ids": ids,
                "judged_texts": texts,
            },
            shards=log.shards,
            fingerprint={
                "query_log": log.sha256,
                "mask": sorted(corpus.query_log_mask),
                "phone_regions": corpus.query_log_phone_regions,
                **left_out,
            },
            pool=run.settings.io_pool,
        )
    )
    drops = drops_of(table.commits())
    if same := drops["judged"] + drops["judged_id"]:
        run.progress.say(
            f"query log: {same} queries are left out of training, since the evaluation judges them: {drops['judged']} "
            f"by text, {drops['judged_id']} by id alone. {table.num_rows} are left"
        )
    return table


def asked_text(text: str) -> str:
    """A query of which two are equal if they ask the same but for case, white space, punctuation around it and
    Unicode's forms."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(_AROUND)


def files_of(path: str) -> list[str]:
    """The files of a query log, relative to `path`; "" if it is a file itself.

    Raises:
        InputError: it does not exist, or is a folder without files of JSON lines.
    """
    if Path(path).is_file():
        return [""]
    names = list_files(Path(path), ENDINGS).names if Path(path).is_dir() else []
    if not names:
        raise InputError(
            f"corpus.query_log: {path} is neither a file nor a folder of files that end in {' or '.join(ENDINGS)} "
            f"(also compressed). Expected JSONL with one query on each line, such as {EXAMPLE}. Correct the "
            "path, or leave query_log out."
        )
    return names


def scan(path: str, rows_per_shard: int) -> LogFile:
    """Checks every line of a query log and cuts it into shards of at most `rows_per_shard` lines.

    A process that asks again for files that have not changed gets the same answer, and reads nothing.

    Raises:
        InputError: the log does not exist or holds no query, or a line is malformed; names file, line and cause.
    """
    names = files_of(path)
    states = [Path(path, name).stat() for name in names]
    return _scan(
        path, rows_per_shard, tuple(zip(names, ((one.st_size, one.st_mtime_ns) for one in states), strict=True))
    )


@lru_cache(maxsize=1)
def _scan(path: str, rows_per_shard: int, files: tuple[tuple[str, tuple[int, int]], ...]) -> LogFile:
    names = [name for name, _ in files]
    digest = hashlib.sha256()
    shards: list[Shard] = []
    ids = RepeatedIds()
    for number, name in enumerate(names):
        first: Line | None = None
        rows = 0
        for line in _lines(Path(path, name)):
            digest.update(line.content)
            if (query := parse(line)) is not None:
                ids.add(query[0], line.number, number)
            first = first or line
            rows = line.number - first.number + 1
            if rows == rows_per_shard:
                shards.append(_shard(len(shards), first, rows, name))
                first = None
        if first is not None:
            shards.append(_shard(len(shards), first, rows, name))
    if not len(ids):
        raise InputError(f"corpus.query_log: {path} holds no query. Add some, or leave query_log out.")
    if twice := ids.first():
        (file, later), (before, earlier) = twice
        where = f" of {names[before]}" if names[before] else ""
        line = next(itertools.islice(_lines(Path(path, names[file])), later - 1, None))
        raise InputError(
            f"{line.place}: the _id {(parse(line) or ('',))[0]!r} is in line {earlier}{where} already. Every query "
            "needs its own _id."
        )
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

    def __init__(
        self,
        path: str,
        masked: Sequence[Personal],
        regions: Sequence[str],
        judged_ids: Sequence[str] = (),
        judged_texts: Sequence[str] = (),
    ) -> None:
        self.path = path
        self.masked = masked
        self.regions = regions
        self.judged_ids = frozenset(judged_ids)
        self.judged_texts = frozenset(judged_texts)

    def process(self, task: Task) -> Output:
        """Rows of QUERY_LOG for lines of the shard; drops are those without text, of masks alone, or judged."""
        rows = []
        counts: Counter[Personal] = Counter()
        dropped: list[Dropped] = []
        only_masks = 0
        for query_id, text in self._queries(task):
            if text and (reason := self._why_judged(query_id, text)):
                dropped.append(Dropped(f"log:{query_id}", reason, mask(text, self.masked, self.regions)[0]))
                continue
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
        judged = Counter(query.reason for query in dropped)
        empty = task.stop - task.start - len(rows) - only_masks - len(dropped)
        drops = {"empty": empty, "only_personal": only_masks, **judged}
        stats = {f"masked_{kind}": count for kind, count in counts.items()}
        return Output(table, drops, stats=stats, dropped=dropped)

    def _why_judged(self, query_id: str, text: str) -> str | None:
        if asked_text(text) in self.judged_texts:
            return "judged"
        return "judged_id" if query_id in self.judged_ids else None

    def _queries(self, task: Task) -> Iterator[tuple[str, str]]:
        params = task.shard.params
        file = planned_file(Path(self.path), params.get("file", ""), "query log", "queries")
        lines = _lines(file, params["start"], params["first_line"])
        for line in itertools.islice(lines, task.start, task.stop):
            if (query := parse(line)) is not None:
                yield query


def _lines(path: Path, offset: int = 0, number: int = 1) -> Iterator[Line]:
    advice = "Every machine of the cluster must see the query log under this path."
    return read_lines(path, advice, offset, number)


def _shard(number: int, first: Line, rows: int, file: str) -> Shard:
    return Shard(f"{number:05d}", rows, params={"start": first.offset, "first_line": first.number, "file": file})
