"""Examples: pairs of a passage and a query of a type, which prompts show. Shipped pools, and pairs of a user's own.

The shipped pool is one file of passages, each with a query for most types. Nothing of an evaluation's data is in it.
"""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from cluster.errors import InputError
from cluster.jsonl import read_lines
from cluster.mistakes import Place, explain, listed, read_yaml, shown
from cluster.settings import Settings
from generation.settings import unknown_type

EXAMPLE = '{"passage": "…", "query": "…", "type": "question"}'  # of a line
MOST_TOLD = 20  # mistakes of a file


class Pair(Settings):
    """A passage, and a query of some type for which it is a good result; for types with `hops: 2` two passages."""

    passage: str = Field(min_length=1)
    second_passage: str | None = Field(None, min_length=1, description="for types with hops: 2, the neighbour")
    query: str = Field(min_length=1)

    @property
    def hops(self) -> int:
        """How many passages the query needs."""
        return 1 if self.second_passage is None else 2

    @property
    def passages(self) -> tuple[str, ...]:
        """The one passage, or both."""
        return (self.passage,) if self.second_passage is None else (self.passage, self.second_passage)


class OwnPair(Pair):
    """An entry of an examples file."""

    type: str = Field(min_length=1, description="the query type it is an example of")


class ShippedPassage(Settings):
    """An entry of the shipped pool: queries of the passage by type, and those that need its neighbour, too."""

    domain: str
    passage: str
    queries: dict[str, str]
    neighbour: str | None = None
    of_both: dict[str, str] = Field(default_factory=dict)


Pool = tuple[Pair, ...]


@cache
def shipped_passages() -> tuple[ShippedPassage, ...]:
    """The shipped passages with a query for each type that they serve."""
    path = Path(str(resources.files("generation"))) / "prompts" / "examples.yaml"
    return tuple(ShippedPassage.model_validate(entry) for entry in read_yaml(path, "a pool of examples")[0])


def shipped_pool(query_type: str) -> Pool:
    """The shipped pairs of a type; none of a type that is not shipped."""
    of_one = (
        Pair(passage=entry.passage.strip(), query=entry.queries[query_type])
        for entry in shipped_passages()
        if query_type in entry.queries
    )
    of_both = (
        Pair(passage=entry.passage.strip(), second_passage=entry.neighbour.strip(), query=entry.of_both[query_type])
        for entry in shipped_passages()
        if query_type in entry.of_both and entry.neighbour
    )
    return (*of_one, *of_both)


def own_pools(path: Path, types: Mapping[str, int]) -> dict[str, Pool]:
    """Pairs of a user's file, by type.

    Args:
        path: JSONL, or YAML with a list; entries are {passage, query, type}, and {second_passage} for two hops.
        types: that there are, each with its hops.

    Raises:
        InputError: it cannot be read, or entries have mistakes, each with its line.
    """
    pools: dict[str, list[Pair]] = defaultdict(list)
    problems: list[str] = []
    for where, entry, places in _entries(path):
        if not isinstance(entry, dict):
            problems.append(f"{where}: expected {{passage, query, type}}, found {shown(entry)}")
            continue
        try:
            pair = OwnPair.model_validate(entry)
        except ValidationError as error:
            problems += explain(error, OwnPair, places, where)
            continue
        if pair.type not in types:
            problems.append(f"{places.get(('type',), where)}: {unknown_type(pair.type, tuple(types))}")
        elif pair.hops != types[pair.type]:
            problems.append(f"{where}: {wrong_hops(pair.type, types[pair.type])}")
        second = pair.second_passage.strip() if pair.second_passage else None
        pools[pair.type].append(Pair(passage=pair.passage.strip(), second_passage=second, query=pair.query.strip()))
    if problems:
        more = [f"… and {len(problems) - MOST_TOLD} more"] if len(problems) > MOST_TOLD else []
        raise InputError(listed(f"generation.examples_file {path}", problems[:MOST_TOLD] + more))
    if not pools:
        raise InputError(f"generation.examples_file: {path} holds no example. Expected {{passage, query, type}} each.")
    return {name: tuple(pairs) for name, pairs in pools.items()}


def wrong_hops(query_type: str, hops: int) -> str:
    """What is said of an example with a passage too many or too few."""
    if hops == 2:
        return f"the query type '{query_type}' asks for two passages (hops: 2); add `second_passage`"
    return f"the query type '{query_type}' asks for one passage; leave `second_passage` out, or give the type hops: 2"


def _entries(path: Path) -> Iterator[tuple[str, Any, dict[Place, str]]]:
    """Each entry with its file and line, and the lines of its fields where they are known."""
    if not path.is_file():
        raise InputError(f"generation.examples_file: there is no file '{path}'. Expected JSONL or YAML.")
    if path.suffix in (".yaml", ".yml"):
        data, places = read_yaml(path, "a file of examples")
        if not isinstance(data, list):
            raise InputError(f"{path}, line 1: expected a list of {{passage, query, type}}, found {shown(data)}")
        for number, entry in enumerate(data):
            inner = {place[1:]: where for place, where in places.items() if place[0] == str(number) and place[1:]}
            yield places[str(number),], entry, inner
        return
    for line in read_lines(path, "Correct generation.examples_file."):
        if not line.is_blank:
            yield line.place, line.json_object(EXAMPLE), {}


# ---- which of them a prompt shows


def chosen_examples(pool: Pool, count: int, sets: int | None, seed: int, query_type: str, source_id: str) -> Pool:
    """The pairs that the prompt for one passage shows, in the order of the pool.

    Args:
        pool: of the query type.
        count: of pairs, not more than there are.
        sets: how many different sets there are; None: any pairs of the pool for each passage.
        seed: of the recipe.
        query_type: each type has its own sets.
        source_id: the passage, which decides the set.
    """
    if not count:
        return ()
    key = f"{source_id}:{query_type}"
    if sets is None:
        chosen = random.Random(hashed(seed, key)).sample(range(len(pool)), count)
    else:
        chosen = _numbered_set(len(pool), count, hashed(seed, key) % sets, hashed(seed, query_type))
    return tuple(pool[number] for number in sorted(chosen))


def _numbered_set(size: int, count: int, number: int, seed: int) -> list[int]:
    """Set `number` of a pool: a shuffled pool is dealt out, and shuffled anew when it does not suffice for a set."""
    deals, place = divmod(number, size // count)
    order = list(range(size))
    random.Random(seed + deals).shuffle(order)
    return order[place * count : (place + 1) * count]


def hashed(seed: int, text: str) -> int:
    """A number of 31 bits, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {text}".encode(), digest_size=4).digest()) & 0x7FFFFFFF
