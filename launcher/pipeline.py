"""What the program does: eight stages, one call each, every one reading what the ones before it committed.

A stage that is finished does no work when it is called again, so running again is resuming.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.run import Run
from cluster.schemas import STAGES
from cluster.tables.gc import collect_all
from cluster.watch.progress import Progress
from distill.evaluation import stage as evaluation
from distill.lists import stage as lists
from distill.retrieval import candidates, embeddings
from distill.teachers import scores
from distill.training import stage as training
from generation import distinct, passages, queries, query_log, records
from launcher import evaluation_set
from launcher.environment import versions
from launcher.interrupt import Interrupts
from launcher.placement import refuse_training_in_a_bucket, refuse_what_no_node_holds
from launcher.plan.reality import PLANNED, Planning
from launcher.recipe import Recipe
from launcher.report import build_report

MARKER = "versions.json"  # the first file of a run


def stages(run: Run, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Runs stage after stage; yields each one's name and what it made. Stop iterating to stop after a stage."""
    judged = evaluation_set.prepare(run.storage, recipe.evaluation)

    read = records.build(run, recipe.corpus)
    corpus = passages.build(run, recipe.corpus, read, judged.judged if judged else frozenset())
    yield "corpus", corpus

    logged = query_log.build(run, recipe.corpus)  # first: a mistake in the log must not cost an hour of generation
    written = queries.build(run, recipe.generation, corpus)
    queries.refuse_none(written, logged, recipe.generation)
    if (threshold := recipe.generation.distinct_from) is not None:
        written = distinct.build(run, threshold, written)
    asked = [written, logged] if logged else [written]
    yield "queries", asked

    vectors = {
        name: embeddings.build(run, name, encoder, recipe.retrieval.retrievers[name].pool, corpus, asked)
        for name, encoder in recipe.dense_retrievers().items()
    }
    yield "embeddings", vectors

    proposed = candidates.build(run, recipe.retrieval, vectors, corpus, asked)
    yield "candidates", proposed

    scored = {
        name: scores.build(run, name, teacher, recipe.student_encoder(), proposed, corpus, vectors.values())
        for name, teacher in recipe.teachers.items()
    }
    yield "scores", scored

    extractive = recipe.generation.engine == "extractive"
    listed = lists.build(run, recipe.lists, recipe.teachers, scored, proposed, extractive)
    yield "lists", listed

    student = training.build(run, recipe.training, recipe.student, listed, corpus)
    yield "training", student

    model = student["model"]
    yield (
        "evaluation",
        evaluation.build(run, recipe.evaluation, judged.folder, recipe.student, model) if judged else None,
    )


def execute(
    recipe: Recipe,
    last: str = "evaluation",
    overwrite: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Runs the stages up to and including `last`, then writes the report.

    Returns:
        The evaluation's record; None if the run stopped before or the recipe names no judged queries.

    Raises:
        InputError: a mistake in the recipe's inputs; a workdir that did not exist before does not exist afterwards.
    """
    for option, named in (("--until", {last}), ("--overwrite", overwrite)):
        if unknown := named - STAGES.keys():
            raise InputError(f"{option} {', '.join(sorted(unknown))}: no such stage; there are {', '.join(STAGES)}")
    refuse_training_in_a_bucket(recipe, last)
    recipe.check_inputs()
    _refuse_foreign_files(recipe.workdir)
    with Interrupts() as interrupts, Run(recipe.workdir, recipe.cluster, overwrite=overwrite, progress=progress) as run:
        run.storage.put(MARKER, json.dumps(versions(), indent=1).encode())
        is_new = run.storage.create("recipe.yaml", recipe.to_yaml().encode())
        if not is_new:
            collect_all(run.storage)  # what workers or drivers left that were killed
        done: dict[str, Any] = {}
        try:
            refuse_what_no_node_holds(run, recipe)
            with Planning(run, recipe) as planning:
                for name, made in stages(run, recipe):
                    done[name] = made
                    interrupts.check()
                    if name == "training":
                        planning.keep()
                    if name == last:
                        break
        except InputError:
            if is_new and not done:
                _remove_unread_run(run)
            raise
        run.storage.put("recipe.yaml", recipe.to_yaml().encode())
        build_report(run.storage)
        return done.get("evaluation")


def _refuse_foreign_files(workdir: str) -> None:
    """A run replaces and removes files of certain names; here they must be its own."""
    if "://" in workdir:
        return
    folder = Path(workdir).expanduser()
    if (folder / MARKER).is_file():
        return
    names = [
        "recipe.yaml",
        PLANNED,
        "report.html",
        "report.json",
        "logs",
        *(name for made in STAGES.values() for name in made),
    ]
    if there := [name for name in names if (folder / name).exists()]:
        raise InputError(
            f"workdir '{workdir}' holds {', '.join(there)}, which no run has made. Name a new folder, so that nothing "
            "of yours is replaced."
        )


def _remove_unread_run(run: Run) -> None:
    """The corpus was not read to its end, so nothing of the run is left."""
    for path in ("recipe.yaml", MARKER, PLANNED, "evaluation", *STAGES["corpus"], "logs"):
        run.storage.delete(path)
    folder = run.storage.local_path
    if folder and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)
