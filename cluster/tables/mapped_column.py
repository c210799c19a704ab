"""A column of a whole table, such as the ids of all passages, that the processes of a machine share.

One process reads the table's files and writes the column into a file; all map that file. So the column takes the
memory of the machine once, in pages that the kernel can drop, and the files are read once a machine.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow as pa

from cluster.machines.shared_folder import shared_folder
from cluster.tables.table import Table

FILE = "column.arrow"


def mapped_column(table: Table, name: str) -> pa.ChunkedArray:
    """All values of a column, in the order of the plan; a chunk for each data file.

    Args:
        table: a complete table.
        name: of the column.

    Raises:
        RunError, DamagedError: as `Table.batches`.
        OSError: temporary files cannot be written.
    """
    schema = pa.schema([table.plan.schema.field(name)])

    def make(folder: Path) -> None:
        with pa.OSFile(str(folder / FILE), "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in table.batches([name]):
                writer.write_table(batch.cast(schema))

    identity = json.dumps([table.storage.url, table.path, table.fingerprint, name])
    folder = shared_folder(f"column-{hashlib.sha256(identity.encode()).hexdigest()[:16]}", make)
    with pa.memory_map(str(folder / FILE)) as file:
        return pa.ipc.open_file(file).read_all().column(0)
