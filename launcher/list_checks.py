"""What a recipe needs for its lists, looked at when it is loaded; and what a person should know of finished lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill.settings.encoders import EncoderSettings
from distill.settings.lists import ListSettings
from distill.settings.teachers import TeacherSettings
from distill.settings.training import TrainingSettings

if TYPE_CHECKING:
    from cluster.run import Run
    from cluster.tables.table import Table


def student_teacher(teachers: Mapping[str, TeacherSettings], base: EncoderSettings) -> str | None:
    """Name of a teacher that scores as the student's base does; None if there is none.

    Args:
        teachers: by name.
        base: the student's base model as an encoder.
    """
    from distill.retrieval.embeddings import identity

    for name, teacher in teachers.items():
        if teacher.kind == "bi_encoder" and (teacher.encoder is None or identity(teacher.encoder) == identity(base)):
            return name
    return None


def check_choice(lists: ListSettings, teachers: Mapping[str, TeacherSettings], base: EncoderSettings) -> str | None:
    """What `lists.choice` lacks, in words; None if it lacks nothing."""
    if lists.choice != "contested" or student_teacher(teachers, base):
        return None
    return (
        "lists.choice is 'contested', which needs the student's own scores, and no teacher is the student's base; add "
        "one whose weight changes nothing else: --set teachers.base.kind=bi_encoder --set teachers.base.weight=1e-6"
    )


def warn_of_temperature(run: Run, lists: Table, training: TrainingSettings) -> None:
    """Says so if the lists are flat or saturated at the temperature of a training that has not begun.

    Only the loss `kl` learns from distributions over lists.
    """
    from distill.lists.sharpness import sampled_scores, warning

    if training.loss != "kl" or run.storage.exists("training/plan.json"):
        return
    if text := warning(sampled_scores(lists, training.list_length), training.teacher_temperature):
        run.progress.say(f"warning: {text}")
