"""The ten stages of a run, one call each. Each stage reads the tables that the stages before it have committed.

A finished stage does no work when it is called again. So a run is resumed by starting it again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.errors import InputError
from cluster.overwrite import refuse_unknown
from cluster.run import Run
from cluster.schemas import KEPT, MARKER, STAGES
from cluster.tables.gc import collect_all
from cluster.tables.table import Table
from cluster.watch.progress import Progress
from distill.evaluation import stage as evaluation
from distill.lists import ensemble_stage as ensemble
from distill.lists import stage as lists
from distill.retrieval import candidates, embeddings
from distill.teachers import agreement, probe_stage
from distill.training import stage as training
from generation import distinct, passages, queries, query_log, records
from generation.documents.chunker import Chunking
from generation.judging import stage as judging
from generation.judging import verdict
from generation.language.detect import corpus_language, in_words
from generation.mixture import Section, one_threshold, refuse_none
from generation.sources import budget
from generation.sources.stage import sample_size
from launcher import evaluation_set, input_checks, judged_queries, model_checks, scoring, sources
from launcher.chunking import chunking_of
from launcher.environment import versions
from launcher.interrupt import Interrupts
from launcher.list_checks import student_teacher, warn_of_temperature
from launcher.paths import absolute_paths
from launcher.placement import refuse_training_in_a_bucket, refuse_what_no_node_holds
from launcher.plan.reality import PLANNED, BackgroundPlan
from launcher.recipe import Recipe
from launcher.report.page import build_report


def stages(run: Run, recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Runs stage after stage and yields the name and the result of each; the caller stops iterating to stop the run."""
    chunking = chunking_of(recipe)
    judged = evaluation_set.prepare(run.storage, recipe.evaluation, chunking)
    for note in judged.notes if judged else ():
        run.progress.say(note)

    model_checks.check_in_run(run, recipe)
    for name, teacher in recipe.teachers.items():
        probe_stage.build(run, name, teacher)  # a model that is no use is found before anything is paid for
    judged_ids = judged.passage_ids if judged else frozenset[str]()
    corpus, language = _corpus(run, recipe, judged_ids, chunking)
    recipe = recipe.in_language(language)
    yield "corpus", corpus

    asked = judged.queries if judged else {}
    logged = query_log.build(run, recipe.corpus, asked)  # before hours of generation, since it may hold mistakes
    labelled = judged_queries.build(run, recipe.corpus, corpus, asked, judged_ids)
    real = [table for table in (logged, labelled) if table]
    chosen = sources.choose(run, recipe, corpus, logged)
    paid = budget.decide(run, recipe.asking, corpus, chosen, language) if chosen else None
    most = paid.sources if paid else None
    written = {
        section: queries.build(run, settings, corpus, section, chosen, most, language)
        for section, settings in recipe.sections.items()
    }
    refuse_none(list(written.values()), real, recipe.sections)
    synthetic = _distinct(run, recipe, written)
    yield "queries", synthetic

    graded = None
    if judge := recipe.judge:
        graded = judging.build(run, judge, corpus, synthetic, recipe.judged_sections)
    yield "grades", graded

    if judge and graded:
        synthetic = [verdict.build(run, judge, graded)]
    all_queries = [*synthetic, *real]
    yield "approved", all_queries

    vectors = {
        name: embeddings.build(run, name, encoder, recipe.retrieval.retrievers[name].pool, corpus, all_queries)
        for name, encoder in recipe.dense_retrievers().items()
    }
    yield "embeddings", vectors

    candidate_table = candidates.build(run, recipe.retrieval, vectors, corpus, all_queries, judged_ids)
    yield "candidates", candidate_table

    teachers, score_tables = scoring.score(run, recipe, candidate_table, corpus, vectors, labelled)
    agreement.build(run, score_tables, candidate_table)
    yield "scores", score_tables

    combined = ensemble.build(run, recipe.ensemble, teachers, score_tables, candidate_table, corpus, recipe.lists.seed)
    student = student_teacher(teachers, recipe.student_encoder())
    list_table = lists.build(
        run,
        recipe.lists,
        teachers,
        score_tables,
        candidate_table,
        corpus,
        recipe.extractive,
        student,
        combined,
        labelled,
    )
    warn_of_temperature(run, list_table, recipe.training)
    yield "lists", list_table

    training_record = training.build(run, recipe.training, recipe.student, list_table, corpus)
    yield "training", training_record

    record = None
    if judged:
        model = (run.storage.local_path or Path()) / training.MODEL
        record = evaluation.build(run, recipe.evaluation, judged.folder, recipe.student_encoder(), model)
    yield "evaluation", record


def _corpus(run: Run, recipe: Recipe, judged: frozenset[str], chunking: Chunking | None) -> tuple[Table, str]:
    """PASSAGES, and the code of their language."""
    record_table = records.build(run, recipe.corpus, chunking)
    sampled = sample_size(recipe.corpus, recipe.asking)
    alike = recipe.corpus.distinct_from if chunking or recipe.corpus.near_duplicates != "auto" else None
    corpus = passages.build(run, recipe.corpus, record_table, judged, sampled, alike)
    language = corpus_language(recipe.corpus.language, corpus)
    if language.why:
        run.progress.say(in_words(language))
    return corpus, language.code


def _distinct(run: Run, recipe: Recipe, written: Mapping[Section, Table]) -> list[Table]:
    """All written queries, without near-duplicates; a section that keeps all of its queries is not looked at."""
    compared = [table for section, table in written.items() if recipe.sections[section].distinct_from is not None]
    threshold = one_threshold(recipe.sections)
    if threshold is None:
        return list(written.values())
    return [distinct.build(run, threshold, compared), *(one for one in written.values() if one not in compared)]


def execute(
    recipe: Recipe,
    last: str = "evaluation",
    overwrite: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> dict[str, Any] | None:
    """Runs the stages up to and including `last`, then writes the report.

    Returns:
        The evaluation's record; None if the run stopped before it, or if the recipe names no judged queries.

    Raises:
        InputError: the recipe's inputs have a mistake. If this call created the workdir, it has removed it again.
    """
    refuse_unknown("--until", {last})
    refuse_unknown("--overwrite", overwrite, parts=True)
    refuse_training_in_a_bucket(recipe, last)
    recipe = absolute_paths(recipe)
    input_checks.check(recipe)
    _refuse_foreign_files(recipe.workdir)
    with Interrupts() as interrupts, Run(recipe.workdir, recipe.cluster, overwrite=overwrite, progress=progress) as run:
        run.storage.put(MARKER, json.dumps(versions(), indent=1).encode())
        is_new = run.storage.create("recipe.yaml", recipe.to_yaml().encode())
        if not is_new:
            collect_all(run.storage)  # files that killed workers or drivers have left
        results: dict[str, Any] = {}
        order = _stages_of(recipe, last)
        run.progress.expect(order)
        run.progress.enter(order[0])
        try:
            refuse_what_no_node_holds(run, recipe)
            with BackgroundPlan(run, recipe) as plan:
                for name, result in stages(run, recipe):
                    results[name] = result
                    run.progress.enter(next((one for one in order if one not in results), ""))
                    interrupts.check()
                    if name == "training":
                        plan.save()
                    if name == last:
                        break
        except InputError:
            if is_new and not results:
                _remove_unread_run(run)
            raise
        run.storage.put("recipe.yaml", recipe.to_yaml().encode())
        build_report(run.storage)
        return results.get("evaluation")


def _stages_of(recipe: Recipe, last: str) -> list[str]:
    """The stages that a run passes through, up to and including `last`."""
    without = set() if recipe.judge else {"grades", "approved"}
    if not recipe.evaluation.dataset:
        without.add("evaluation")
    order = list(STAGES)
    return [name for name in order[: order.index(last) + 1] if name not in without]


def _refuse_foreign_files(workdir: str) -> None:
    """Refuses a workdir that holds other files under names that a run replaces or removes."""
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
        *(path for paths in (*STAGES.values(), *KEPT.values()) for path in paths),
    ]
    if foreign := [name for name in names if (folder / name).exists()]:
        raise InputError(
            f"workdir '{workdir}' holds {', '.join(foreign)}, which no run has made. Name a new folder, so that "
            "none of your files is replaced."
        )


def _remove_unread_run(run: Run) -> None:
    """Removes all files of a run whose corpus could not be read to its end."""
    for path in ("recipe.yaml", MARKER, PLANNED, "evaluation", *STAGES["corpus"], "logs"):
        run.storage.delete(path)
    folder = run.storage.local_path
    if folder and not any(path.is_file() for path in folder.rglob("*")):
        shutil.rmtree(folder, ignore_errors=True)
