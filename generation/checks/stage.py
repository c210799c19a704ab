"""The check of a language model where it will compute: on a worker of its pool, before the corpus is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import InputError
from cluster.schemas import LANGUAGE_MODEL_CHECKS
from cluster.tables.plan import Shard
from cluster.workers.stage import Stage
from cluster.workers.worker import Output, Task
from generation import queries
from generation.judging import stage as judging
from generation.judging.settings import JudgeSettings
from generation.mixture import Section, in_section
from generation.settings import GenerationSettings

if TYPE_CHECKING:
    from cluster.run import Run
    from cluster.tables.table import Table

# what another value of may make another verdict
_DECIDES = {
    "model", "engine", "lora", "prompt", "query_types", "types_folder", "examples", "examples_file", "system_prompt",
    "about", "max_tokens", "max_model_len", "chat_template_kwargs", "tensor_parallel", "engine_args",
    "trust_remote_code", "rubric",
}  # fmt: skip


def build(run: Run, section: Section, settings: GenerationSettings | JudgeSettings) -> Table:
    """Checks one model, into a table LANGUAGE_MODEL_CHECKS of one row.

    Args:
        run: the run.
        section: of the recipe, for messages.
        settings: of an engine vllm, or of the judge.

    Raises:
        InputError: the model is refused.
    """
    is_judge = isinstance(settings, JudgeSettings)
    name = f"{section.field}.judge" if is_judge else section.field
    pool = judging.place(settings) if isinstance(settings, JudgeSettings) else queries.place(settings)
    # so that checks from before there were these fields hold
    later = {"revision": None, "lora_revision": None, "by": "rubric"}
    decides = _DECIDES | {field for field, value in later.items() if getattr(settings, field, value) != value}
    return run.check_again(
        Stage(
            title=f"check: {name}",
            table=LANGUAGE_MODEL_CHECKS,
            path=LANGUAGE_MODEL_CHECKS.path.format(name=name),
            worker=CheckWorker,
            arguments={"section": section, "settings": settings},
            shards=[Shard("00000", 1)],
            fingerprint=settings.model_dump(mode="json", include=decides),
            pool=pool.model_copy(update={"workers": 1}),
            many_threads=True,
        )
    )


class CheckWorker:
    """Worker that checks one language model; the arguments are those of `build`."""

    def __init__(self, section: Section, settings: GenerationSettings | JudgeSettings) -> None:
        self.section, self.settings = section, settings

    def process(self, task: Task) -> Output:
        """One row for the one unit of work."""
        from generation.checks.language_model import check_model

        try:
            found = check_model(self.settings, asks_vllm=True)
        except InputError as error:
            raise InputError(in_section(str(error), self.section)) from error
        row = {"context": [found.context], "styles": [list(found.styles)], "weights": [found.weights]}
        return Output(pa.table(row, schema=LANGUAGE_MODEL_CHECKS.schema))
