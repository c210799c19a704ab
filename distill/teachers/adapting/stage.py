"""The part of the scores stage that makes a teacher: lists for it, ranks that train it, and whether it is kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from cluster.errors import InputError
from cluster.tables.table import Table
from distill.lists import ensemble_stage
from distill.lists.ensemble_reader import EnsembleReader
from distill.lists.relevance import Relevance
from distill.settings.encoders import EncoderSettings
from distill.settings.ensemble import EnsembleSettings
from distill.settings.lists import ListSettings
from distill.settings.teachers import TeacherSettings, as_cross_encoder
from distill.teachers.adapting.data import collect
from distill.teachers.adapting.job import FOLDER, HELD_OUT, JUDGEMENT, LISTS, MODEL, SCORED, AdaptingJob
from distill.teachers.adapting.judge import in_words, judge, source_ranks, with_others
from distill.training.on_ray import run_ranks
from distill.training.stop import stop_file

if TYPE_CHECKING:
    from cluster.run import Run

TRAINER = "distill.teachers.adapting.trainer"


def build(
    run: Run,
    name: str,
    teacher: TeacherSettings,
    student: EncoderSettings,
    others: Mapping[str, TeacherSettings],
    scores: Mapping[str, Table],
    candidates: Table,
    passages: Table,
    ensemble: EnsembleSettings,
    lists: ListSettings,
    judged: Table | None = None,
) -> tuple[TeacherSettings, str] | None:
    """Fine-tunes a teacher, or returns what was made before.

    Args:
        run: the run.
        name: the teacher's name in the recipe.
        teacher: its settings, of kind adapted.
        student: the student's base, which training begins with if the teacher names no model.
        others: the other teachers, by name; at least one.
        scores: SCORES of each of them.
        candidates: CANDIDATES.
        passages: PASSAGES.
        ensemble: how the others become one.
        lists: how scores are scaled, and which sources are the dev split.
        judged: JUDGED_QUERIES, if the run has some.

    Returns:
        The settings of a cross-encoder in the folder of the run, and the digest of its weights. None: with it, the
        teachers do not rank held-out sources better, or there was too little to learn from.

    Raises:
        InputError: the model cannot be loaded, the workdir is in an object store, or no node can hold a rank.
        RunError: the ranks died too often, or the loss is no number.
    """
    folder, adapt = FOLDER.format(name=name), teacher.adapting
    if not teacher.model:
        teacher = teacher.model_copy(update={"model": student.model, "revision": student.revision})
    combined = ensemble_stage.build(
        run, ensemble, others, scores, candidates, passages, lists.seed, folder=f"{folder}/ensemble"
    )
    fingerprint = {
        "teacher": teacher.model_dump(mode="json", include={"model", "revision", "max_tokens", "dtype"}),
        "adapt": adapt.identity(),
        "ensemble": combined.record(),
        "lists": lists.model_dump(
            mode="json", include={"low_percentile", "high_percentile", "dev_fraction", "seed", "duplicate_similarity"}
        ),
        "inputs": [candidates.fingerprint, passages.fingerprint, *(scores[other].fingerprint for other in others)],
    }

    def produce() -> dict[str, Any]:
        output = _folder(run, folder)
        data = collect(
            EnsembleReader([scores[other] for other in others], combined),
            candidates,
            passages,
            lists,
            adapt,
            Relevance(judged),
        )
        pq.write_table(data.lists, output / LISTS)
        pq.write_table(data.held_out, output / HELD_OUT)
        stop_file(output).unlink(missing_ok=True)
        job = AdaptingJob(
            teacher, passages.storage.url, str(output), passages.path, patience_s=run.settings.storage_timeout_s
        )
        record = run_ranks(run, job, output, title=f"teacher {name}", module=TRAINER)
        shutil.rmtree(output / "checkpoints", ignore_errors=True)
        return {"begun_with": teacher.model, **record, "drops": data.drops}

    record = run.execute_in_process(folder, fingerprint, produce, title=f"teacher {name}")
    if "kept" not in record:  # earlier versions wrote the judgement into the record
        judgement = _judgement(_folder(run, folder), teacher.weight, ensemble)
        run.storage.put(f"{folder}/{JUDGEMENT}", json.dumps(judgement).encode())
        record |= judgement
    run.progress.say(f"teacher {name}: {in_words(record)}")
    if not record["kept"]:
        return None
    return as_cross_encoder(teacher, str(_folder(run, folder) / MODEL)), record["weights"]


def _judgement(folder: Path, weight: float, ensemble: EnsembleSettings) -> dict[str, Any]:
    """What `judge` says. It is made at every start, since the weight may change without another training."""
    if not (folder / SCORED).exists():
        return judge([], [], [])
    held_out, scored = pq.read_table(folder / HELD_OUT), pq.read_table(folder / SCORED)
    sources = held_out["source"].to_pylist()
    others, adapted, untrained = (
        [np.array(scores) for scores in column.to_pylist()]
        for column in (held_out["scores"], scored["adapted"], scored["untrained"].drop_null())
    )
    return judge(
        source_ranks(others, sources),
        source_ranks(adapted, sources),
        source_ranks(with_others(others, adapted, weight, ensemble), sources),
        source_ranks(untrained, sources) if untrained else None,
    )


def _folder(run: Run, folder: str) -> Path:
    workdir = run.storage.local_path
    if workdir is None:
        raise InputError(
            f"workdir '{run.storage.url}': a teacher of kind adapted needs a folder that every rank's node can write "
            "to. Use a workdir on a shared file system, or leave the teacher out."
        )
    path = workdir / folder
    path.mkdir(parents=True, exist_ok=True)
    return path
