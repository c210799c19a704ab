"""A mixture of engines: a recipe's `generation` may be a list of sections, which write for the same source passages.

Each section has a table of its own, and an engine, types and sampling. `share` says for how many of the sources it
writes. Sections with a share follow each other around a circle of hashes: 0.8 and 0.2 divide the sources between them,
and two sections of 1 both write for all of them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster.errors import InputError
from cluster.schemas import MORE_QUERIES, QUERIES
from cluster.tables.commit import drops_of
from cluster.tables.table import Table
from generation.settings import GenerationSettings

_CIRCLE = 2**32  # hashes of source ids
_FIELD = re.compile(r"(?<![\w/.])generation\.(?=[a-z])")


@dataclass(frozen=True)
class Section:
    """The place of a section in its recipe.

    Attributes:
        number: 0 for the first, as in `--set generation.0.model=…`.
        field: names the section in messages: `generation`, or `generation.1` in a list.
        begin, length: of the arc of hashes whose sources it writes for; the whole circle has 2 ** 32.
    """

    number: int = 0
    field: str = "generation"
    begin: int = 0
    length: int = _CIRCLE

    @property
    def path(self) -> str:
        """Folder of its table. That of the first is the same as without a mixture."""
        return MORE_QUERIES.path.format(name=self.number) if self.number else QUERIES.path

    @property
    def stage(self) -> str:
        """Names its work for people: `queries`, or `queries 1` in a list."""
        return "queries" + self.field.removeprefix("generation").replace(".", " ")

    def unit(self, source_id: str, query_type: str, sample: int) -> str:
        """The id of a query, unique over all sections."""
        return f"{source_id}:{query_type}:{sample}" + (f"@{self.number}" if self.number else "")

    def writes_for(self, source_id: str) -> bool:
        """Whether a source is in its share; the same on every machine, and for every seed."""
        if self.length == _CIRCLE:
            return True
        place = int.from_bytes(hashlib.blake2b(f"share {source_id}".encode(), digest_size=4).digest())
        return (place - self.begin) % _CIRCLE < self.length

    @property
    def identity(self) -> dict[str, list[int]]:
        """What it adds to the identity of its queries: nothing, where it writes for all sources."""
        return {} if self.length == _CIRCLE else {"sources": [self.begin, self.length]}


WHOLE = Section()


def sections_of(generation: GenerationSettings | Sequence[GenerationSettings]) -> dict[Section, GenerationSettings]:
    """The sections of a recipe in their order: one, or those of a list."""
    several = [generation] if isinstance(generation, GenerationSettings) else list(generation)
    found: dict[Section, GenerationSettings] = {}
    begin = 0.0
    for number, settings in enumerate(several):
        end = round(begin + settings.share, 9)
        first, last = (round(place * _CIRCLE) for place in (begin, end))
        field = f"generation.{number}" if len(several) > 1 else "generation"
        found[Section(number, field, first % _CIRCLE, last - first)] = settings
        begin = end % 1
    return found


def without_budgets(
    generation: GenerationSettings | Sequence[GenerationSettings],
) -> GenerationSettings | list[GenerationSettings]:
    """The same sections without their budgets."""
    if isinstance(generation, GenerationSettings):
        return generation.model_copy(update={"budget": None})
    return [one.model_copy(update={"budget": None}) for one in generation]


def one_threshold(sections: dict[Section, GenerationSettings]) -> float | None:
    """The Jaccard index from which two queries of the run are the same; None where every section keeps all.

    Raises:
        ValueError: two sections want different ones.
    """
    wanted = {section.field: settings.distinct_from for section, settings in sections.items()}
    different = {threshold for threshold in wanted.values() if threshold is not None}
    if len(different) > 1:
        told = ", ".join(f"{field}: {threshold}" for field, threshold in wanted.items())
        raise ValueError(
            f"near_duplicates differ ({told}). Queries of all sections are compared with each other: give each section "
            "the same number, or null where all of its queries are to be kept"
        )
    return different.pop() if different else None


def sources_differ(sections: dict[Section, GenerationSettings]) -> list[str]:
    """What the sections of a list must not say differently, since all of them write for the same sources."""
    several = list(sections.items())
    problems = [
        f"{section.field}.budget: a budget is for a recipe with one section; set corpus.max_sources, and the shares"
        for section, settings in several
        if len(several) > 1 and settings.budget
    ]
    if len({settings.neighbours for settings in sections.values()}) > 1:
        problems.append("generation: the sections name different `neighbours`; give each section the same")
    return problems


def in_section(message: str, section: Section) -> str:
    """A message about `generation.…`, which names the section of a list that it is about."""
    return message if section.field == WHOLE.field else _FIELD.sub(f"{section.field}.", message)


def refuse_none(
    written: Sequence[Table], real: Sequence[Table], sections: Mapping[Section, GenerationSettings]
) -> None:
    """Looks that there is a query to go on with.

    Args:
        written: QUERIES of every section.
        real: the query log and the judged queries, where there are some.
        sections: their settings.

    Raises:
        InputError: there is none; says what took how many.
    """
    if any(table.num_rows for table in (*written, *real)):
        return
    commits = [commit for table in written for commit in table.commits()]
    drops = drops_of(commits)
    least = " or ".join(
        f"{section.field}.min_query_characters={settings.min_query_characters}"
        for section, settings in sections.items()
    )
    advice = {
        "too_short": f"they have fewer than {least} characters, or than their type's min_characters; lower it",
        "too_long": "they have more than their type's max_characters; raise it",
        "duplicate": "their source has the same query already",
    }
    told = "; ".join(
        f"{reason} took {count}" + (f" ({advice[reason]})" if reason in advice else "")
        for reason, count in drops.most_common()
    )
    raise InputError(
        f"no query is left after generation: of {sum(table.plan.units for table in written)} asked for, "
        f"{told or 'none was written'}. "
        "Change the section generation, then run again with --overwrite queries."
    )
