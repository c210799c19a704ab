"""The plan of a table: its shards, the input rows of each, and the fingerprint of everything that determines them."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cluster.schemas import TableSchema


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `stop` of a committed data file; `where` may name a boolean column that selects among them."""

    file: str
    start: int
    stop: int
    where: str | None = None


@dataclass(frozen=True)
class Shard:
    """A planned piece of work: `rows` input rows, and the units that each of them makes.

    `units_per_row` is one number for all rows, or one for each row, in their order. `slices` say where the input rows
    are. If the input is no table, `slices` is empty and `params` (JSON) describe the input, such as a byte range of a
    file.
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
    """The content of plan.json. `revision` grows when a damaged shard was done again and came out with other rows."""

    id: str
    fingerprint: dict[str, Any]
    unit: str
    schema: pa.Schema
    shards: tuple[Shard, ...]
    revision: int = 0

    @classmethod
    def new(cls, table: TableSchema, shards: list[Shard], fingerprint: dict[str, Any]) -> Plan:
        """A plan with a new random id."""
        plain_json = json.loads(json.dumps(fingerprint))  # tuples become lists, as in a plan that was read back
        return cls(uuid.uuid4().hex[:12], plain_json, table.unit, table.schema, tuple(shards))

    @property
    def units(self) -> int:
        """Units the whole table must account for."""
        return sum(shard.units for shard in self.shards)

    def to_bytes(self) -> bytes:
        """The plan as JSON; each shard is an array, which is short, since a plan may hold tens of thousands."""
        shards = [
            [s.name, s.rows, s.units_per_row, [[c.file, c.start, c.stop, c.where] for c in s.slices], s.params]
            for s in self.shards
        ]
        plan = {"id": self.id, "revision": self.revision, "unit": self.unit, "fingerprint": self.fingerprint}
        schema = base64.b64encode(self.schema.serialize()).decode()
        return json.dumps({**plan, "schema": schema, "shards": shards}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The plan that `to_bytes` wrote.

        Raises:
            KeyError: it has no shards, as that of a one-process stage.
            ValueError: it is no plan.
        """
        record = json.loads(data)
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        planned = record["shards"]
        try:
            shards = tuple(
                Shard(
                    name, rows, tuple(units) if isinstance(units, list) else units,
                    tuple(Slice(*piece) for piece in slices), params,
                )
                for name, rows, units, slices, params in planned
            )  # fmt: skip
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["schema"])))
            return cls(record["id"], record["fingerprint"], record["unit"], schema, shards, record["revision"])
        except (KeyError, TypeError, ValueError) as error:  # pyarrow's errors are ValueErrors
            raise ValueError(f"a field of it is missing or wrong: {error}") from None
