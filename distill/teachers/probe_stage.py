"""The probes: before a query is written, every teacher that reads texts is tried on pairs of known answer.

A probe loads the model where it will score later, in a worker of the teacher's pool. So a mistake in the teachers of a
recipe is found in minutes, and not after hours of generation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import PROBES
from cluster.tables.plan import Shard
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from distill.encoders.encoder import LIBRARIES
from distill.settings.teachers import MODEL_KINDS, TEXT_KINDS, TeacherSettings
from distill.teachers.http_api import identity
from distill.teachers.load import load_scorer, place, takes_vllm
from distill.teachers.pairs import close
from distill.teachers.probe import refuse_a_blind
from distill.teachers.scores import identity_of_model

if TYPE_CHECKING:
    from cluster.run import Run
    from cluster.tables.table import Table


def build(run: Run, name: str, teacher: TeacherSettings) -> Table | None:
    """Tries one teacher, into a table PROBES of one row; None for a teacher that reads no text, or is not to be tried.

    Args:
        run: the run.
        name: the teacher's name in the recipe.
        teacher: its settings.

    Raises:
        InputError: the model cannot be loaded, or does not tell passages apart.
    """
    if teacher.kind not in TEXT_KINDS or not teacher.probe:
        return None
    table = run.check_again(
        Stage(
            title=f"probe: {name}",
            table=PROBES,
            path=PROBES.path.format(name=name),
            worker=ProbeWorker,
            arguments={"name": name, "teacher": teacher},
            shards=[Shard("00000", 1)],
            fingerprint=identity(teacher) if teacher.kind == "http" else identity_of_model(teacher),
            pool=place(teacher).model_copy(update={"workers": 1}),
            many_threads=takes_vllm(teacher),
            imports=LIBRARIES if teacher.kind in MODEL_KINDS else (),
        )
    )
    (row,) = table.read().to_pylist()
    run.progress.say(
        f"teacher {name}: {row['right']:.0%} of pairs of known answer in the right order, {row['distinct']:.0%} of its "
        "scores distinct"
    )
    return table


class ProbeWorker:
    """Worker that loads one teacher and tries it; the arguments are those of `build`."""

    def __init__(self, name: str, teacher: TeacherSettings) -> None:
        try:
            self.scorer = load_scorer(teacher)
        except InputError as error:
            raise InputError(f"teachers.{name}: {error}") from error
        self.name = name

    def process(self, task: Task) -> Output:
        """One row for the one unit of work."""
        verdict = refuse_a_blind(self.name, self.scorer)
        rows = pa.table(
            {
                "right": [verdict.right],
                "own_text": [verdict.own_text],
                "distinct": [verdict.distinct],
            }
        )
        return Output(rows, tokens=self.scorer.take_tokens())

    def close(self) -> None:
        """Ends what the teacher has started."""
        close(self.scorer)
