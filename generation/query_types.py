"""Query types: what a language model is asked to write. Data, one YAML file a type, shipped ones and a user's own.

The shipped ones lie in `generation/prompts/types/`. A folder that the recipe names adds types, or
replaces some.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from cluster.errors import InputError
from cluster.mistakes import Place, explain, listed, read_yaml, shown
from cluster.settings import Settings
from generation.examples import Pair, Pool, own_pools, shipped_pool, wrong_hops
from generation.settings import QUERY_TYPES, GenerationSettings, Language, Sampling, shipped_types, unknown_type

NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")


class TypeFile(Settings):
    """The fields of a type's file."""

    extends: str | None = Field(None, description="another type, whose fields hold where this file says nothing")
    label: str = Field(min_length=1, max_length=40, description="marks the query in examples and completions")
    instruction: str = Field(min_length=1, description="what to write, told to the language model")
    hops: Literal[1, 2] = Field(1, description="2: the prompt shows the passage and its nearest neighbour")
    examples: list[Pair] = Field(default_factory=list, description="pairs of a passage and a query of this type")
    examples_shown: int | None = Field(None, ge=0, description="pairs in a prompt; empty: generation.examples")
    stop: list[str] = Field(default_factory=list, description="an answer ends before any of these")
    min_characters: int | None = Field(None, ge=1, description="shorter queries are dropped")
    max_characters: int | None = Field(None, ge=1, description="longer queries are dropped")
    max_tokens: int | None = Field(None, ge=1, description="of an answer; empty: generation.max_tokens")
    weight: float = Field(1.0, gt=0, allow_inf_nan=False, description="queries per passage and sample, on average")
    language: Language | None = Field(None, description="of the queries, a code such as de or a name")
    sampling: Sampling = Field(Sampling(), description="how tokens are drawn")

    @field_validator("label")
    @classmethod
    def _label_is_one_line(cls, label: str) -> str:
        if "\n" in label or ":" in label:
            raise ValueError("a label is a word or two on one line; the colon is added to it")
        return label

    @field_validator("examples")
    @classmethod
    def _examples_have_their_passages(cls, examples: list[Pair], info: ValidationInfo) -> list[Pair]:
        hops = info.data.get("hops")
        if hops and any(example.hops != hops for example in examples):
            raise ValueError(wrong_hops(info.data.get("label", ""), hops))
        return examples

    @field_validator("stop")
    @classmethod
    def _stop_is_no_emptiness(cls, stop: list[str]) -> list[str]:
        if "" in stop:
            raise ValueError("an empty text stops every answer before it begins")
        return stop

    @model_validator(mode="after")
    def _limits_agree(self) -> TypeFile:
        if self.min_characters and self.max_characters and self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters is {self.min_characters}, more than max_characters, {self.max_characters}"
            )
        return self


@dataclass(frozen=True)
class QueryType:
    """One query type, resolved: what its file says, and where it says nothing, what the recipe says.

    Attributes:
        name: in ids, tables and recipes.
        label: marks the query in examples and completions.
        instruction: what to write.
        pool: pairs that prompts may show.
        examples: pairs shown in a prompt.
        stop: an answer ends before any of these; empty: where the style of the prompt ends it.
        min_characters, max_characters: limits of a query's length.
        max_tokens: of an answer.
        weight: queries per passage and sample, on average.
        language: of the queries, as it was written; None: not said.
        sampling: names and values for the engine; what is not there is the engine's own.
        hops: passages that a query needs: 1, or 2 for a passage and its neighbour.
    """

    name: str
    label: str
    instruction: str
    pool: Pool
    examples: int
    stop: tuple[str, ...]
    min_characters: int
    max_characters: int | None
    max_tokens: int
    weight: float
    language: str | None
    sampling: dict[str, float | int]
    hops: int = 1

    @property
    def digest(self) -> str:
        """Changes whenever anything of the type does."""
        pool = [pair.model_dump(exclude_none=True) for pair in self.pool]
        plain = asdict(replace(self, pool=())) | {"pool": pool}
        if self.hops == 1:
            del plain["hops"]
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


def load_types(generation: GenerationSettings) -> dict[str, QueryType]:
    """The query types that a recipe asks for, in its order.

    Raises:
        InputError: a file of a type or of examples has mistakes, each with its line; or there is no such type, or the
            engine does not write it.
    """
    if generation.engine == "extractive" and (others := set(generation.query_types) - set(QUERY_TYPES)):
        raise InputError(
            f"generation.query_types: the engine extractive writes {', '.join(QUERY_TYPES)}, and not "
            f"{', '.join(sorted(others))}. Leave that out, or choose the engine vllm or openai."
        )
    files = dict(_shipped_files())
    if generation.types_folder:
        files |= dict(_read_folder(Path(generation.types_folder).expanduser(), files))
    for name in generation.query_types:
        if name not in files:
            raise InputError(f"generation.query_types: {unknown_type(name, tuple(files))}.")
    examples = generation.examples_file
    hops = {name: file.hops for name, file in files.items()}
    pools = own_pools(Path(examples).expanduser(), hops) if examples else {}
    types = {name: _resolve(name, files[name], pools.get(name), generation) for name in generation.query_types}
    for kind in types.values():
        most = kind.weight * generation.samples
        if kind.sampling.get("temperature") == 0 and most > 1 and generation.engine != "extractive":
            raise InputError(
                f"query type '{kind.name}': {most:g} queries are asked for each passage at temperature 0, which writes "
                "the same every time. Raise the temperature, or lower generation.samples or the weight."
            )
    return types


def _resolve(name: str, file: TypeFile, own: Pool | None, generation: GenerationSettings) -> QueryType:
    written = tuple(file.examples)
    pool = own or written or shipped_pool(name) or (shipped_pool(file.extends) if file.extends else ())
    pool = tuple(pair for pair in pool if pair.hops == file.hops)  # a type that extends one of another number has none
    shown_most = generation.examples if file.examples_shown is None else file.examples_shown
    return QueryType(
        name=name,
        label=file.label,
        instruction=file.instruction.strip(),
        pool=pool,
        examples=min(shown_most, generation.examples, len(pool)),
        stop=tuple(file.stop),
        min_characters=file.min_characters or generation.min_query_characters,
        max_characters=file.max_characters,
        max_tokens=file.max_tokens or generation.max_tokens,
        weight=generation.weights.get(name, file.weight),
        language=file.language or generation.language,
        sampling=generation.sampling.model_dump(exclude_none=True) | file.sampling.model_dump(exclude_none=True),
        hops=file.hops,
    )


# ---- how many of each


def per_source(generation: GenerationSettings, types: Mapping[str, QueryType]) -> float:
    """Queries that are asked for a passage, on average."""
    return sum(_expected(generation, kind) for kind in types.values())


def units_of(
    generation: GenerationSettings, types: Mapping[str, QueryType], source_id: str, *, has_neighbour: bool = False
) -> dict[str, int]:
    """How many queries of each type are asked for one passage: a whole number near weight × samples.

    What is left of the weight decides by a hash of seed, passage and type: at weight 0.5 every second passage has a
    query, always the same ones. A type with two hops asks nothing of a passage without a neighbour.
    """
    return {
        name: math.floor(_expected(generation, kind) + _fraction(f"{generation.seed} {source_id}:{name}"))
        if kind.hops == 1 or has_neighbour
        else 0
        for name, kind in types.items()
    }


def same_for_all(generation: GenerationSettings, types: Mapping[str, QueryType]) -> int | None:
    """Queries asked for every passage, if it is one number for all."""
    if any(kind.hops > 1 for kind in types.values()):
        return None  # it depends on the passage's neighbour
    each = [_expected(generation, kind) for kind in types.values()]
    return int(sum(each)) if all(one.is_integer() for one in each) else None


def _expected(generation: GenerationSettings, kind: QueryType) -> float:
    return round(kind.weight * generation.samples, 9)  # 0.7 × 10 is 7, not a little more


def _fraction(text: str) -> float:
    """A number from 0 to under 1, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) / 2**32


# ---- files


@cache
def _shipped_files() -> dict[str, TypeFile]:
    folder = Path(str(resources.files("generation"))) / "prompts" / "types"
    return {name: _validate(*_read(folder / f"{name}.yaml")) for name in shipped_types()}


def _read_folder(folder: Path, known: dict[str, TypeFile]) -> Iterator[tuple[str, TypeFile]]:
    """The types of a folder, those they extend merged in."""
    if not folder.is_dir():
        raise InputError(f"generation.types_folder: there is no folder '{folder}'. Expected one YAML file a type.")
    paths: dict[str, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml")):
        if path.stem in paths:
            raise InputError(
                f"generation.types_folder: {paths[path.stem]} and {path} are both a type '{path.stem}'. Keep one."
            )
        if not path.stem or not set(path.stem) <= NAME_CHARACTERS:
            raise InputError(f"{path}: the file's name is the type's: use letters, digits, '-' and '_'.")
        paths[path.stem] = path
    if not paths:
        raise InputError(f"generation.types_folder: '{folder}' holds no .yaml file. Expected one a type.")
    read = {name: _read(path) for name, path in paths.items()}
    for name, (path, data, places) in read.items():
        yield name, _validate(path, _extended(name, data, places, read, known), places)


def _extended(
    name: str,
    data: dict[str, Any],
    places: dict[Place, str],
    read: dict[str, tuple[Path, dict[str, Any], dict[Place, str]]],
    known: dict[str, TypeFile],
) -> dict[str, Any]:
    """The fields of a file over those of the type that it extends; a file may extend the shipped type it replaces."""
    base = data.get("extends")
    if not isinstance(base, str):
        return data
    if base in read and base != name:
        below = read[base][1]
        if below.get("extends") not in (None, base):
            raise InputError(
                f"{places['extends',]}: '{base}' extends '{below['extends']}' itself; extend that, or write all fields"
            )
        below = _extended(base, below, read[base][2], read, known)
    elif base in known:
        below = known[base].model_dump(exclude_unset=True)
    else:
        others = tuple(one for one in (*known, *read) if one != name)
        raise InputError(f"{places['extends',]}: {unknown_type(base, others)}")
    merged = below | data
    if isinstance(below.get("sampling"), dict) and isinstance(data.get("sampling"), dict):
        merged["sampling"] = below["sampling"] | data["sampling"]
    return merged


def _read(path: Path) -> tuple[Path, dict[str, Any], dict[Place, str]]:
    data, places = read_yaml(path, "a query type")
    if not isinstance(data, dict):
        raise InputError(f"{path}, line 1: expected fields such as `instruction:` and `label:`, found {shown(data)}")
    return path, {str(key): value for key, value in data.items()}, places


def _validate(path: Path, data: dict[str, Any], places: dict[Place, str]) -> TypeFile:
    try:
        return TypeFile.model_validate({"label": path.stem.replace("_", " ").capitalize()} | data)
    except ValidationError as error:
        problems = explain(error, TypeFile, places, f"{path}, line 1")
        raise InputError(listed(f"the query type {path}", problems)) from None
