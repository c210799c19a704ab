"""The report's section on queries: figures of every query type, and a few queries and dropped answers to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import ListwiseError
from cluster.schemas import APPROVED, DISTINCT, GRADES, MORE_QUERIES, QUERIES
from cluster.tables.storage import Storage
from generation.distinct import NEAR_DUPLICATE
from generation.judging.stage import BINS
from generation.judging.verdict import REASON
from generation.mixture import Section
from generation.type_figures import figures
from launcher.sample import QuerySample, Sampled, near_duplicates_by_table, writers

KEPT_PASSAGES = 6  # shown with their queries
FIRST_QUERIES = 20  # shown near the top, of all types in turn; of each passage at most one, if there are enough
DROPPED_PASSAGES = 3  # shown of each reason
TEXT_CHARACTERS = 300  # of a passage
SOURCE_CHARACTERS = 80
_BARS = "▁▂▃▄▅▆▇█"


def query_types(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures of each type, from the `stats` of a run's tables; empty if there are none.

    Keys: type, asked, kept, lost (by reason), characters and words (means of a query), overlap (share of the words of
    queries that their sources have), distinct (share of the queries that are no near-duplicates; None if that was not
    decided, or not yet for all). The means are over all queries, near-duplicates included.
    """
    tables = {stage["table"]: stage for stage in stages}
    of_sections = [Counter(stats) for name, stage in tables.items() if _is_written(name) and (stats := stage["stats"])]
    written = figures(sum(of_sections, Counter()))
    distinct = tables.get(DISTINCT.path)
    repeated = figures(distinct["stats"]) if distinct else {}
    is_decided = distinct is not None and distinct["state"] == "done"
    judged = figures(tables[APPROVED.path]["stats"]) if APPROVED.path in tables else {}
    records = []
    for name, of_type in written.items():
        near = repeated[name].lost if name in repeated else Counter[str]()
        low = judged[name].lost if name in judged else Counter[str]()
        different = of_type.kept - near.total()
        kept = different - low.total()
        records.append(
            {
                "type": name,
                "asked": of_type.asked,
                "kept": kept,
                "lost": dict(sorted({**of_type.lost, **near, **low}.items(), key=lambda loss: (-loss[1], loss[0]))),
                "characters": round(of_type.characters / of_type.kept, 1) if of_type.kept else None,
                "words": round(of_type.words / of_type.kept, 1) if of_type.kept else None,
                "overlap": round(of_type.source_words / of_type.words, 3) if of_type.words else None,
                "distinct": round(different / of_type.kept, 3) if is_decided and of_type.kept else None,
            }
        )
    return records


def prompt_tokens(stages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Tokens of all prompts of a run: `read`, and of these `cached` ones that came from the prefix cache."""
    written = [stage["stats"] for stage in stages if _is_written(stage["table"])]
    read, cached = (sum(stats.get(name, 0) for stats in written) for name in ("prompt_tokens", "cached_tokens"))
    return {"read": read, "cached": cached}


def query_grades(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How the judge graded each type; empty without a judge.

    Keys: type, judged, grades (by criterion, how many queries are in each of ten bins from 0 to 1).
    """
    found: dict[str, dict[str, list[int]]] = {}
    stats: Mapping[str, int] = next((stage["stats"] for stage in stages if stage["table"] == GRADES.path), {})
    for name, count in stats.items():
        if name.count("/") == 2:
            query_type, criterion, place = name.split("/")
            found.setdefault(query_type, {}).setdefault(criterion, [0] * BINS)[int(place)] += count
    return [
        {"type": name, "judged": max(sum(bins) for bins in grades.values()), "grades": dict(sorted(grades.items()))}
        for name, grades in sorted(found.items())
    ]


def query_writers(
    storage: Storage, stages: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Figures of each section of a mixture of engines; empty where there is one section.

    Keys: writer, asked, kept, lost (by reason), tokens.
    """
    names, tables = writers(recipe), {stage["table"]: stage for stage in stages}
    if len(names) == 1:
        return []
    near = near_duplicates_by_table(storage)
    low = _low_grades_by_table(tables[APPROVED.path]["stats"]) if APPROVED.path in tables else {}
    records = []
    for path, name in names.items():
        if path not in tables:
            continue
        later = Counter({NEAR_DUPLICATE: near[path]}) + low.get(path, Counter())
        lost = Counter(tables[path]["drops"]) + later
        records.append(
            {
                "writer": name,
                "asked": tables[path]["units_done"],
                "kept": tables[path]["rows"] - later.total(),
                "lost": dict(sorted(lost.items(), key=lambda loss: (-loss[1], loss[0]))),
                "tokens": tables[path]["tokens"],
            }
        )
    return records


def _low_grades_by_table(stats: Mapping[str, int]) -> dict[str, Counter[str]]:
    """What the judge dropped of each section's table, by reason."""
    found: dict[str, Counter[str]] = {}
    for name, count in stats.items():
        reason, at, number = name.partition("@")
        if at and reason.startswith(REASON):
            found.setdefault(Section(int(number)).path, Counter())[reason] += count
    return found


def query_samples(storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """Passages with what was written for them, under "kept" and under each reason; empty if they cannot be read."""
    try:
        sample = QuerySample(storage)
        shown = {"kept": sample.passages(FIRST_QUERIES)}
        shown |= {reason: sample.passages(DROPPED_PASSAGES, reason=reason) for reason, _ in sample.drops.most_common()}
    except (ListwiseError, KeyError):  # not begun, or damaged: the report of a run does not depend on it
        return {}
    return {name: [_record(one) for one in passages] for name, passages in shown.items() if passages}


def first_queries(samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Queries to look at first: of all types in turn, ordered by type.

    Args:
        samples: as `query_samples` gives them.

    Returns:
        At most `FIRST_QUERIES` rows of {type, text, source}; source is the passage's title, or how it begins.
    """
    of_types: dict[str, list[tuple[int, dict[str, str]]]] = {}  # with the number of the passage
    for number, passage in enumerate(samples.get("kept", ())):
        source = shortened(passage["title"] or passage["text"], SOURCE_CHARACTERS)
        for one in passage["written"]:
            if not one["reason"]:
                row = {"type": one["type"], "text": one["text"], "source": source}
                of_types.setdefault(one["type"], []).append((number, row))
    chosen: list[dict[str, str]] = []
    seen: set[int] = set()
    while len(chosen) < FIRST_QUERIES and any(of_types.values()):
        for rows in of_types.values():
            if rows and len(chosen) < FIRST_QUERIES:
                place = next((place for place, (number, _) in enumerate(rows) if number not in seen), 0)
                number, row = rows.pop(place)
                seen.add(number)
                chosen.append(row)
    return sorted(chosen, key=lambda row: row["type"])


def types_view(
    types: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    tokens: Mapping[str, int],
    mixture: Sequence[Mapping[str, Any]] = (),
    grades: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Texts for the page."""
    rows = [
        {
            "type": record["type"],
            "asked": f"{record['asked']:,}",
            "kept": f"{record['kept']:,}",
            "lost": _reasons(record["lost"]),
            "characters": "" if record["characters"] is None else f"{record['characters']:.0f}",
            "words": "" if record["words"] is None else f"{record['words']:.1f}",
            "overlap": _percent(record["overlap"]),
            "distinct": _percent(record["distinct"]),
        }
        for record in types
    ]
    groups = [
        {
            "title": "Kept" if name == "kept" else f"Dropped: {name.replace('_', ' ')}",
            "passages": passages[:KEPT_PASSAGES],
        }
        for name, passages in samples.items()
    ]
    read, cached = tokens["read"], tokens["cached"]
    prompts = f"The prompts have {read:,} tokens; {cached / read:.0%} came from the prefix cache." if read else ""
    writers = [
        {
            "writer": record["writer"],
            "asked": f"{record['asked']:,}",
            "kept": f"{record['kept']:,}",
            "lost": _reasons(record["lost"]),
            "tokens": f"{record['tokens']:,}",
        }
        for record in mixture
    ]
    criteria = list(dict.fromkeys(name for record in grades for name in record["grades"]))
    graded = [
        {
            "type": record["type"],
            "judged": f"{record['judged']:,}",
            "bars": [_bars(record["grades"].get(name, [])) for name in criteria],
        }
        for record in grades
    ]
    return {
        "first": first_queries(samples), "rows": rows, "samples": groups, "writers": writers, "prompts": prompts,
        "criteria": criteria, "grades": graded,
    }  # fmt: skip


def _is_written(table: str) -> bool:
    """Whether a section of the recipe writes this table."""
    return table == QUERIES.path or table.startswith(MORE_QUERIES.path.partition("/")[0] + "/")


def _reasons(lost: Mapping[str, int]) -> str:
    return ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in lost.items())


def _bars(bins: Sequence[int]) -> str:
    """A histogram in one word: the highest bar is the bin with the most queries, and an empty bin has none."""
    most = max(bins, default=0)
    return "".join(_BARS[round((len(_BARS) - 1) * count / most)] if count else "\u2007" for count in bins)


def shortened(text: str, characters: int) -> str:
    """A text of at most so many characters; one that is cut ends in …"""
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _record(sampled: Sampled) -> dict[str, Any]:
    text = sampled.text
    return {
        "passage_id": sampled.passage_id,
        "title": sampled.title,
        "text": shortened(text, TEXT_CHARACTERS),
        "written": [
            {"type": one.query_type, "text": one.text, "reason": one.reason, "writer": one.writer}
            for one in sampled.written
        ],
    }
