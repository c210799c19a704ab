"""What a rank is told that fine-tunes a teacher. A module of its own, so that who only hands it on needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from distill.settings.adapting import AdaptingSettings
from distill.settings.teachers import TeacherSettings
from distill.settings.training import TrainingSettings

FOLDER = "teachers/{name}"  # of the workdir, for all that belongs to one teacher
LISTS, HELD_OUT, MODEL, METRICS = "lists.parquet", "held_out.parquet", "model", "metrics.jsonl"  # in the job's folder
SCORED = "scored.parquet"  # rows of `data.SCORED`, for those of HELD_OUT
JUDGEMENT = "judgement.json"  # what `judge` says


@dataclass(frozen=True)
class AdaptingJob:
    """What a rank needs to know.

    Attributes:
        teacher: settings of the teacher, whose `model` names what training begins with.
        workdir: url of the run; `passages` is a table path in it.
        output: folder that every rank's node can write to. `LISTS` and `HELD_OUT` lie in it; checkpoints, metrics, the
            finished model and `SCORED` come into it.
        patience_s: how long a storage may refuse.
    """

    teacher: TeacherSettings
    workdir: str
    output: str
    passages: str = "passages"
    patience_s: float = 600.0

    @property
    def adapt(self) -> AdaptingSettings:
        """How the teacher is trained."""
        return self.teacher.adapting

    @property
    def training(self) -> TrainingSettings:
        """The same in the words of the student's training, for what both have in common: ranks, engine, schedule."""
        adapt = self.adapt
        same = (
            "ranks", "cpus_per_rank", "gpus_per_rank", "queries_per_step", "list_length", "epochs", "max_steps",
            "learning_rate", "weight_decay", "gradient_clip", "teacher_temperature", "micro_batch_tokens", "seed",
        )  # fmt: skip
        return TrainingSettings(
            **{name: getattr(adapt, name) for name in same}, student_temperature=adapt.temperature,
            dtype="float32" if self.teacher.dtype == "float32" else "auto", keep_checkpoints=1, trackers=[],
        )  # fmt: skip

    def to_json(self) -> str:
        """For handing the job to ranks."""
        return json.dumps({**asdict(self), "teacher": self.teacher.model_dump(mode="json")})

    @classmethod
    def from_json(cls, text: str) -> AdaptingJob:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        return cls(**{**fields, "teacher": TeacherSettings(**fields["teacher"])})
