"""What a rank is told. A module of its own, so that who only hands it on needs no torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from distill.settings.encoders import StudentSettings
from distill.settings.training import TrainingSettings


@dataclass(frozen=True)
class TrainingJob:
    """What a rank needs to know.

    Attributes:
        training, student: recipe sections.
        workdir: url of the run; `lists` and `passages` are table paths in it.
        output: folder that every rank's node can write to: checkpoints, tokens, metrics.jsonl.
        model: folder of the exported student.
        patience_s: how long a storage may refuse.
    """

    training: TrainingSettings
    student: StudentSettings
    workdir: str
    output: str
    model: str
    lists: str = "lists"
    passages: str = "passages"
    patience_s: float = 600.0

    def to_json(self) -> str:
        """For handing the job to ranks."""
        settings = {"training": self.training.model_dump(), "student": self.student.model_dump()}
        return json.dumps({**asdict(self), **settings})

    @classmethod
    def from_json(cls, text: str) -> TrainingJob:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        fields["training"] = TrainingSettings(**fields["training"])
        fields["student"] = StudentSettings(**fields["student"])
        return cls(**fields)
