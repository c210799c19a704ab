"""Plans the work of a stage: cuts the rows of the tables that it reads into shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cluster.tables.plan import Shard, Slice
from cluster.tables.table import Table


def plan_shards(
    table: Table,
    rows_per_shard: int,
    *,
    where: str | None = None,
    units_per_row: int | Sequence[int] = 1,
    most: int | None = None,
) -> list[Shard]:
    """Cuts the committed rows of a table into shards "00000", "00001", ….

    Args:
        table: a complete table.
        rows_per_shard: the largest number of rows of a shard.
        where: a boolean column; only rows where it is true are planned.
        units_per_row: units that each row must account for: one number, or one for each planned row, in the table's
            order.
        most: only so many rows are planned, from the first on.
    """
    pieces: list[list[Slice]] = [[]]
    counts = [0]
    files = table.files()
    masks = (batch.column(where).to_numpy() for batch in table.batches([where])) if where else None
    for file, rows in files:
        planned_rows = next(masks).nonzero()[0] if masks is not None else range(rows)
        if most is not None:
            planned_rows = planned_rows[:most]
            most -= len(planned_rows)
        done = 0
        while done < len(planned_rows):
            if counts[-1] == rows_per_shard:
                pieces.append([])
                counts.append(0)
            count = min(rows_per_shard - counts[-1], len(planned_rows) - done)
            start, stop = int(planned_rows[done]), int(planned_rows[done + count - 1]) + 1
            pieces[-1].append(Slice(file, start, stop, where))
            counts[-1] += count
            done += count
    shards, first = [], 0
    for number, (count, slices) in enumerate(zip(counts, pieces, strict=True)):
        units = units_per_row if isinstance(units_per_row, int) else tuple(units_per_row[first : first + count])
        first += count
        if count:
            shards.append(Shard(f"{number:05d}", count, units, tuple(slices)))
    if not isinstance(units_per_row, int) and len(units_per_row) != first:
        raise ValueError(f"units of {len(units_per_row)} rows were given, and {first} rows are planned")
    return shards


def plan_over_tables(tables: Sequence[Table], rows_per_shard: int) -> list[Shard]:
    """Cuts several tables, one after the other, into shards.

    `params["first"]` of a shard is the number of its first row, counted over all tables.
    """
    shards: list[Shard] = []
    first = 0
    for table in tables:
        for shard in plan_shards(table, rows_per_shard):
            shards.append(replace(shard, name=f"{len(shards):05d}", params={"first": first}))
            first += shard.rows
    return shards
