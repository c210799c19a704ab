"""The plan of a table: its shards, of what they are made, and the fingerprint of all that determines them."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cluster.schemas import TableSchema

if TYPE_CHECKING:
    from cluster.tables import Table


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of a committed data file; `where` names a boolean column that picks among them."""

    file: str
    start: int
    stop: int
    where: str | None = None


@dataclass(frozen=True)
class Shard:
    """A planned piece of work: `rows` input rows, and the units that each of them makes.

    `units_per_row` is one number for all rows, or one for each row, in their order. `params` (JSON) describe a shard
    that is no rows of a table, such as a byte range of an input file.
    """

    name: str
    rows: int
    units_per_row: int | tuple[int, ...] = 1
    slices: tuple[Slice, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Units this shard must account for."""
        return self.units_of(0, self.rows)

    def units_of(self, start: int, stop: int) -> int:
        """Units that rows `start` to `stop` must account for."""
        if isinstance(self.units_per_row, int):
            return (stop - start) * self.units_per_row
        return sum(self.units_per_row[start:stop])


@dataclass(frozen=True)
class Plan:
    """Content of plan.json. `revision` grows when a damaged shard was redone with other rows."""

    id: str
    fingerprint: dict[str, Any]
    unit: str
    schema: pa.Schema
    shards: tuple[Shard, ...]
    revision: int = 0

    @classmethod
    def new(cls, table: TableSchema, shards: list[Shard], fingerprint: dict[str, Any]) -> Plan:
        """A plan with a fresh id."""
        plain = json.loads(json.dumps(fingerprint))
        return cls(uuid.uuid4().hex[:12], plain, table.unit, table.schema, tuple(shards))

    @property
    def units(self) -> int:
        """Units the whole table must account for."""
        return sum(shard.units for shard in self.shards)

    def to_bytes(self) -> bytes:
        """JSON; shards as arrays, since a plan may hold tens of thousands."""
        shards = [
            [s.name, s.rows, s.units_per_row, [[c.file, c.start, c.stop, c.where] for c in s.slices], s.params]
            for s in self.shards
        ]
        plan = {"id": self.id, "revision": self.revision, "unit": self.unit, "fingerprint": self.fingerprint}
        schema = base64.b64encode(self.schema.serialize()).decode()
        return json.dumps({**plan, "schema": schema, "shards": shards}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Reads what `to_bytes` wrote."""
        record = json.loads(data)
        shards = tuple(
            Shard(
                name, rows, tuple(units) if isinstance(units, list) else units,
                tuple(Slice(*piece) for piece in slices), params,
            )
            for name, rows, units, slices, params in record["shards"]
        )  # fmt: skip
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["schema"])))
        return cls(record["id"], record["fingerprint"], record["unit"], schema, shards, record["revision"])


def plan_shards(
    table: Table, rows_per_shard: int, *, where: str | None = None, units_per_row: int | Sequence[int] = 1
) -> list[Shard]:
    """Cuts the committed rows of a table into shards "00000", "00001", ….

    Args:
        table: a complete table.
        rows_per_shard: most rows of a shard.
        where: boolean column; only rows where it is true are planned.
        units_per_row: units each row must account for: one number, or one for each planned row, in the table's order.
    """
    pieces: list[list[Slice]] = [[]]
    counts = [0]
    files = table.files()
    masks = (batch.column(where).to_numpy() for batch in table.batches([where])) if where else None
    for file, rows in files:
        kept = next(masks).nonzero()[0] if masks is not None else range(rows)
        done = 0
        while done < len(kept):
            if counts[-1] == rows_per_shard:
                pieces.append([])
                counts.append(0)
            take = min(rows_per_shard - counts[-1], len(kept) - done)
            start, stop = int(kept[done]), int(kept[done + take - 1]) + 1
            pieces[-1].append(Slice(file, start, stop, where))
            counts[-1] += take
            done += take
    shards, first = [], 0
    for number, (count, slices) in enumerate(zip(counts, pieces, strict=True)):
        units = units_per_row if isinstance(units_per_row, int) else tuple(units_per_row[first : first + count])
        first += count
        if count:
            shards.append(Shard(f"{number:05d}", count, units, tuple(slices)))
    if not isinstance(units_per_row, int) and len(units_per_row) != first:
        raise ValueError(f"units of {len(units_per_row)} rows were given, and {first} rows are planned")
    return shards
