"""Units of the queries table: how many queries are planned for every source, which weights and neighbours decide."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from cluster.tables.table import Table
from generation.mixture import WHOLE, Section
from generation.query_types import QueryType, same_for_all, units_of
from generation.settings import GenerationSettings


def units_per_row(
    generation: GenerationSettings,
    types: Mapping[str, QueryType],
    passages: Table,
    sources: Table | None,
    most: int | None,
    section: Section = WHOLE,
) -> int | list[int]:
    """Units of every source, in one number if it is the same for all.

    Args:
        generation: samples and seed.
        types: the query types.
        passages: PASSAGES; its sources are planned if there is no table of them.
        sources: SOURCES, or None.
        most: only so many of SOURCES are planned, from the first on.
        section: the other sources are not its own, and have no units.
    """
    if section.identity == WHOLE.identity and (same := same_for_all(generation, types)) is not None:
        return same
    if sources is None:
        found = (
            (source, False)
            for batch in passages.batches(["passage_id", "is_source"])
            for source in batch.filter(batch["is_source"])["passage_id"].to_pylist()
        )
    else:
        found = (
            (source, neighbour is not None)
            for batch in sources.batches(["passage_id", "neighbour_id"])
            for source, neighbour in zip(*(column.to_pylist() for column in batch.columns), strict=True)
        )
    return [
        sum(units_of(generation, types, source, has_neighbour=near).values()) if section.writes_for(source) else 0
        for source, near in islice(found, most)
    ]
