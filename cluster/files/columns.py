"""Names of a table's columns."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import InputError


def refuse_repeated(names: Sequence[str], place: str) -> None:
    """Refuses two columns of one name, since nobody can say which of them is meant. Columns without a name are free.

    Args:
        names: of the columns, in their order.
        place: file, or file and line, for messages.

    Raises:
        InputError: names the two columns.
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if name and first.setdefault(name, number) != number:
            raise InputError(f"{place}: columns {first[name]} and {number} are both called '{name}'. Rename one.")
