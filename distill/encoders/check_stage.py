"""The checks of encoders: before the first stage, every encoder is loaded once where it will compute.

So a model that cannot be read, or is read in another way than by its library, is found in a minute.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import ENCODER_CHECKS
from cluster.settings import PoolSettings
from cluster.tables.plan import Shard
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.encoders.encoder import LIBRARIES
from distill.settings.encoders import EncoderSettings

if TYPE_CHECKING:
    from cluster.run import Run
    from cluster.tables.table import Table


def build(run: Run, field: str, encoder: EncoderSettings, pool: PoolSettings) -> Table:
    """Checks one encoder, into a table ENCODER_CHECKS of one row.

    Args:
        run: the run.
        field: the section of the recipe that names the encoder.
        encoder: its settings; those of a student are checked in training, too.
        pool: of the workers that will use it; one of them is started.

    Raises:
        InputError: the encoder is refused, with the field.
    """
    return run.check_again(
        Stage(
            title=f"check: {field}",
            table=ENCODER_CHECKS,
            path=ENCODER_CHECKS.path.format(name=field),
            worker=CheckWorker,
            arguments={"field": field, "encoder": encoder},
            shards=[Shard("00000", 1)],
            fingerprint={"encoder": encoder.identity(mode="json")},
            pool=pool.model_copy(update={"workers": 1}),
            many_threads=True,
            imports=LIBRARIES,
        )
    )


class CheckWorker:
    """Worker that checks one encoder; the arguments are those of `build`."""

    def __init__(self, field: str, encoder: EncoderSettings) -> None:
        self.field, self.encoder = field, encoder

    def process(self, task: Task) -> Output:
        """One row for the one unit of work."""
        from distill.encoders.check import check_encoder

        try:
            checked = check_encoder(self.encoder)
        except InputError as error:
            raise InputError(f"{self.field}: {error}") from error
        row = asdict(checked) | {"remarks": list(checked.remarks(self.encoder))}
        columns = {name: [row[name]] for name in ENCODER_CHECKS.schema.names}
        return Output(pa.table(columns, schema=ENCODER_CHECKS.schema))
