"""What a recipe names on this machine, looked for before anything is started or written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import InputError
from distill.encoders.loading import resolve_model
from distill.teachers import given_file
from distill.teachers.load import check_template
from generation import query_log
from generation.engines.models import check_model
from generation.engines.style import refuse_missing_template
from generation.judging.engines import check_judge
from generation.mixture import in_section
from generation.query_types import load_types
from launcher import evaluation_set, judged_queries, source_checks

if TYPE_CHECKING:
    from launcher.recipe import Recipe


def check(recipe: Recipe) -> None:
    """Checks that the inputs of a recipe exist and can be read.

    Raises:
        InputError: the query log, a folder of judged queries or its split, or the folder of a model does not exist; the
            latter holds no weights that are safe to read; a file of query types, examples, ids, given scores or the
            judge's rubric has mistakes; a teacher has no template; or the choice of sources lacks what it needs.
    """
    for field, model in recipe.models().items():
        if field.startswith("generation"):
            continue  # a language model may be a GGUF file
        try:
            resolve_model(model.name, model.revision)
        except InputError as error:
            raise InputError(f"{field}: {error}") from None
    for name, teacher in recipe.teachers.items():
        if teacher.kind == "given":
            try:
                given_file.check(str(teacher.path))
            except InputError as error:
                raise InputError(f"teachers.{name}.path: {error}") from None
        try:
            check_template(teacher)
        except InputError as error:
            raise InputError(f"teachers.{name}: {error}") from None
    if recipe.corpus.query_log:
        query_log.scan(recipe.corpus.query_log, recipe.corpus.rows_per_shard)  # reads every line, before hours of work
    judged_queries.check(recipe.corpus.judged_queries)
    for section, generation in recipe.sections.items():
        try:
            load_types(generation)
            refuse_missing_template(generation)
            check_model(generation)
            source_checks.check(
                recipe.corpus, generation, recipe.lists, recipe.dense_retrievers(), recipe.student_encoder()
            )
            if generation.judge:
                check_judge(generation.judge)
        except InputError as error:
            raise InputError(in_section(str(error), section)) from None
    evaluation_set.check(recipe.evaluation)
