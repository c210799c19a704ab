"""Hands the base model's vectors to the choice of sources, where a recipe chooses by them.

Passages are embedded into the very table that the stage `embeddings` would write later, so none is embedded twice.
"""

from __future__ import annotations

from cluster.errors import InputError
from cluster.run import Run
from cluster.tables.table import Table
from distill.retrieval import embeddings
from generation.sources import stage as sources
from launcher.recipe import Recipe
from launcher.source_checks import base_retriever


def choose(run: Run, recipe: Recipe, passages: Table, logged: Table | None) -> Table | None:
    """SOURCES; None where the random sample that PASSAGES marks is all that a recipe needs.

    Args:
        run: the run.
        recipe: which passages, and how many.
        passages: PASSAGES.
        logged: QUERY_LOG, if there is one.

    Raises:
        InputError: the query log decides, and has no query left.
    """
    if sources.sample_size(recipe.corpus, recipe.asking) is not None:
        return None
    vectors = log_vectors = None
    if sources.needs_vectors(recipe.corpus, recipe.asking):
        dense = recipe.dense_retrievers()
        name = base_retriever(dense, recipe.student_encoder())
        folder, encoder, pool = f"embeddings/{name}", dense[name], recipe.retrieval.retrievers[name].pool
        vectors = embeddings.embed_passages(run, folder, name, encoder, pool, passages)
        if recipe.corpus.sources.by == "query_log" and logged:
            if not logged.num_rows:
                raise InputError(
                    "corpus.sources: by query_log needs queries, and none of the log is left "
                    "(listwise status shows why). Name another log, or choose by: random."
                )
            log_vectors = embeddings.embed_log(run, folder, name, encoder, pool, logged)
    return sources.build(run, recipe.corpus, recipe.asking, passages, vectors, log_vectors)
