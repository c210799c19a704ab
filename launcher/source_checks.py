"""What a recipe needs for its choice of sources, looked at before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import InputError
from distill.retrieval.embeddings import identity
from distill.settings.encoders import EncoderSettings
from distill.settings.lists import ListSettings
from generation.query_types import load_types
from generation.settings import CorpusSettings, GenerationSettings
from generation.sources.ids import read_ids
from generation.sources.stage import needs_vectors


def check(
    corpus: CorpusSettings,
    generation: GenerationSettings,
    lists: ListSettings,
    dense: Mapping[str, EncoderSettings],
    base: EncoderSettings,
) -> None:
    """Looks whether the way of choosing and the query types have what they need.

    Raises:
        InputError: a file of ids has a mistake, there is no dense retriever, or sources are to be left out of lists
            over two passages.
    """
    if corpus.sources.file:
        read_ids(corpus.sources.file, corpus.sources.id_field)
    if needs_vectors(corpus, generation):
        base_retriever(dense, base)
    two = [name for name, kind in load_types(generation).items() if kind.hops == 2]
    if two and lists.leave_out_source:
        raise InputError(
            f"lists.leave_out_source is true, and the query type '{two[0]}' needs both of its passages in the list. "
            "Leave one of the two settings out."
        )


def base_retriever(dense: Mapping[str, EncoderSettings], base: EncoderSettings) -> str:
    """Name of the dense retriever whose model is the student's base, else of the first dense one.

    Args:
        dense: encoders of the dense retrievers, by name.
        base: the student's base model as an encoder.

    Raises:
        InputError: there is no dense retriever.
    """
    if not dense:
        raise InputError(
            "corpus.sources by clusters or query_log, and query types with hops: 2, need vectors of the passages, and "
            "retrieval.retrievers names no dense retriever. Add one: --set retrieval.retrievers.dense.kind=dense"
        )
    return next((name for name, encoder in dense.items() if identity(encoder) == identity(base)), next(iter(dense)))
