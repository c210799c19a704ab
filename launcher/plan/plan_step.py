"""One step of a plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanStep:
    """One step of a plan: the work for one table of a run.

    Attributes:
        stage: the stage, as the recipe and `--until` name it.
        table: the table of the workdir that the step makes; for training, its folder.
        work: the model or method that does the work, in a few words.
        units: number of units that are split into shards: passages, queries, or both; for training, the queries of all
            training steps.
        shards: number of shards of the table; 0 for training and evaluation.
        megabytes: size of the table on the disk.
        model: the model that the cluster runs for this step; empty if there is none, or if a server runs it.
        tokens: number of tokens that go through a model.
        length: mean tokens of one text that goes through the model.
        written: how many of `tokens` a language model generates, at most.
        on_gpu: whether the workers hold GPUs.
        devices: GPUs that one worker holds, or its share of this machine's cores. Ranks on CPUs share all of the cores.
        workers: that work at a time on this machine, as far as its cores go and the recipe does not say; ranks in
            training. 0: as many as there are GPUs.
        held: cores that each of them holds.
        notes: further facts for the reader of the plan.
    """

    stage: str
    table: str
    work: str
    units: int
    shards: int
    megabytes: float
    model: str = ""
    tokens: float = 0.0
    length: float = 0.0
    written: float = 0.0
    on_gpu: bool = False
    devices: float = 1.0
    workers: int = 1
    held: float = 1.0
    notes: tuple[str, ...] = ()
