"""Figures of every query type: how many were asked for, kept and lost, how long they are, and what they repeat.

Workers count them into their stats, under names such as `claim/lost/too_short`, so that they add up over shards and
nobody has to read the queries for them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from generation.cleaning.words import words

PASSAGE_CUT = "passage_cut"  # counts units of all types whose prompt shows less of the passage than the recipe allows


@dataclass
class TypeFigures:
    """Counts of one query type.

    Attributes:
        kept: queries.
        lost: units without a query, by reason.
        characters, words: of all kept queries together.
        source_words: those of the words that their sources have, too.
    """

    kept: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    characters: int = 0
    words: int = 0
    source_words: int = 0

    @property
    def asked(self) -> int:
        """Units that ended as a query or without one."""
        return self.kept + self.lost.total()


def kept(stats: Counter[str], query_type: str, query: str, source_words: frozenset[str]) -> None:
    """Counts a query; `source_words` are those of its source's title and text."""
    own = words(query)
    stats.update(
        {
            f"{query_type}/kept": 1,
            f"{query_type}/characters": len(query),
            f"{query_type}/words": len(own),
            f"{query_type}/source_words": sum(word in source_words for word in own),
        }
    )


def lost(query_types: Iterable[str], reason: str) -> Counter[str]:
    """Stats of units without a query, one of each type that is given."""
    return Counter(f"{query_type}/lost/{reason}" for query_type in query_types)


def figures(stats: Mapping[str, int]) -> dict[str, TypeFigures]:
    """The figures by type that stand in the stats of a table, in the order of their names."""
    found: dict[str, TypeFigures] = {}
    for name, count in sorted(stats.items()):
        query_type, slash, what = name.partition("/")
        if not slash:
            continue  # something else that is counted
        of_type = found.setdefault(query_type, TypeFigures())
        if what.startswith("lost/"):
            of_type.lost[what.removeprefix("lost/")] += count
        else:
            setattr(of_type, what, getattr(of_type, what) + count)
    return found
