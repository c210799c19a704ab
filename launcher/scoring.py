"""Scores of all teachers of a run: of those that are there first, then of those that are made from their scores."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.run import Run
from cluster.tables.table import Table
from distill.retrieval.embeddings import Vectors
from distill.settings.teachers import TeacherSettings
from distill.teachers import scores
from distill.teachers.adapting import stage as adapting
from launcher.recipe import Recipe


def score(
    run: Run,
    recipe: Recipe,
    candidates: Table,
    passages: Table,
    vectors: Mapping[str, Vectors],
    judged: Table | None = None,
) -> tuple[dict[str, TeacherSettings], dict[str, Table]]:
    """Makes the scores of every teacher.

    Args:
        run: the run.
        recipe: its recipe.
        candidates: CANDIDATES.
        passages: PASSAGES.
        vectors: vectors of the dense retrievers, by their names.
        judged: JUDGED_QUERIES, if there are some.

    Returns:
        The teachers of the ensemble and their SCORES, by name in the order of the recipe. An adapted teacher is the
        cross-encoder that was made of it; one that was not kept is not among them.
    """
    student = recipe.student_encoder()

    def scored(name: str, teacher: TeacherSettings, weights: str = "") -> Table:
        return scores.build(
            run, name, teacher, student, candidates, passages, recipe.retrieval, vectors, weights=weights
        )

    others = recipe.given_teachers()
    tables = {name: scored(name, teacher) for name, teacher in others.items()}
    found, given = dict(others), dict(tables)
    for name, teacher in recipe.teachers.items():
        if name in others:
            continue
        made = adapting.build(
            run,
            name,
            teacher,
            student,
            others,
            given,
            candidates,
            passages,
            recipe.ensemble,
            recipe.lists,
            judged,
        )
        if made:
            found[name] = made[0]
            tables[name] = scored(name, *made)
    names = [name for name in recipe.teachers if name in found]
    return {name: found[name] for name in names}, {name: tables[name] for name in names}
