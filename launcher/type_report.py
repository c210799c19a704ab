"""The report's section on queries: figures of every query type, and a few queries and dropped answers to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.errors import ListwiseError
from cluster.schemas import DISTINCT, QUERIES
from cluster.tables.storage import Storage
from generation.type_figures import figures
from launcher.sample import QuerySample, Sampled

KEPT_PASSAGES = 6  # shown with their queries
DROPPED_PASSAGES = 3  # shown of each reason
TEXT_CHARACTERS = 300  # of a passage


def query_types(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures of each type, from the `stats` of a run's tables; empty if there are none.

    Keys: type, asked, kept, lost (by reason), characters and words (means of a query), overlap (share of the words of
    queries that their sources have), distinct (share of the queries that are no near-duplicates; None if that was not
    decided, or not yet for all). The means are over all queries, near-duplicates included.
    """
    tables = {stage["table"]: stage for stage in stages}
    written = figures(tables[QUERIES.path]["stats"]) if QUERIES.path in tables else {}
    distinct = tables.get(DISTINCT.path)
    repeated = figures(distinct["stats"]) if distinct else {}
    is_decided = distinct is not None and distinct["state"] == "done"
    records = []
    for name, of_type in written.items():
        near = repeated[name].lost if name in repeated else {}
        kept = of_type.kept - sum(near.values())
        records.append(
            {
                "type": name,
                "asked": of_type.asked,
                "kept": kept,
                "lost": dict(sorted({**of_type.lost, **near}.items(), key=lambda loss: (-loss[1], loss[0]))),
                "characters": round(of_type.characters / of_type.kept, 1) if of_type.kept else None,
                "words": round(of_type.words / of_type.kept, 1) if of_type.kept else None,
                "overlap": round(of_type.source_words / of_type.words, 3) if of_type.words else None,
                "distinct": round(kept / of_type.kept, 3) if is_decided and of_type.kept else None,
            }
        )
    return records


def prompt_tokens(stages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Tokens of all prompts of a run: `read`, and of these `cached` ones that came from the prefix cache."""
    stats = next((stage["stats"] for stage in stages if stage["table"] == QUERIES.path), {})
    return {"read": stats.get("prompt_tokens", 0), "cached": stats.get("cached_tokens", 0)}


def query_samples(storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """Passages with what was written for them, under "kept" and under each reason; empty if they cannot be read."""
    try:
        sample = QuerySample(storage)
        shown = {"kept": sample.passages(KEPT_PASSAGES)}
        shown |= {reason: sample.passages(DROPPED_PASSAGES, reason=reason) for reason, _ in sample.drops.most_common()}
    except (ListwiseError, KeyError):  # not begun, or damaged: the report of a run does not depend on it
        return {}
    return {name: [_record(one) for one in passages] for name, passages in shown.items() if passages}


def types_view(
    types: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
    tokens: Mapping[str, int],
) -> dict[str, Any]:
    """Texts for the page."""
    rows = [
        {
            "type": record["type"],
            "asked": f"{record['asked']:,}",
            "kept": f"{record['kept']:,}",
            "lost": ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in record["lost"].items()),
            "characters": "" if record["characters"] is None else f"{record['characters']:.0f}",
            "words": "" if record["words"] is None else f"{record['words']:.1f}",
            "overlap": _percent(record["overlap"]),
            "distinct": _percent(record["distinct"]),
        }
        for record in types
    ]
    groups = [
        {"title": "Kept" if name == "kept" else f"Dropped: {name.replace('_', ' ')}", "passages": passages}
        for name, passages in samples.items()
    ]
    read, cached = tokens["read"], tokens["cached"]
    prompts = f"The prompts have {read:,} tokens; {cached / read:.0%} came from the prefix cache." if read else ""
    return {"rows": rows, "samples": groups, "prompts": prompts}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _record(sampled: Sampled) -> dict[str, Any]:
    text = sampled.text
    return {
        "passage_id": sampled.passage_id,
        "title": sampled.title,
        "text": text if len(text) <= TEXT_CHARACTERS else text[: TEXT_CHARACTERS - 1] + "…",
        "written": [{"type": one.query_type, "text": one.text, "reason": one.reason} for one in sampled.written],
    }
