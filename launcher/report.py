"""The report of a run, from the files of its workdir alone: `report.json` for programs, `report.html` for people.

The page is one file: no script, no network, every text from the run escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from cluster.errors import InputError
from cluster.tables.storage import Storage
from cluster.watch.phrases import duration
from cluster.watch.status import status
from launcher import charts
from launcher.environment import installed_version
from launcher.plan.reality import PLANNED, compare_with_plan

METRICS = {"ndcg@10": "nDCG@10", "recall@100": "recall@100", "mrr@10": "MRR@10"}
SHOWN_QUERIES = 8  # wins and losses listed, each


def build_report(storage: Storage) -> dict[str, Any]:
    """Write `report.json` and `report.html` of a run, finished or not; returns the content of the former.

    Raises:
        InputError: the folder holds no run.
    """
    report = gather(storage)
    storage.put("report.json", json.dumps(report, indent=2, ensure_ascii=False).encode())
    storage.put("report.html", render(storage, report).encode())
    return report


def gather(storage: Storage) -> dict[str, Any]:
    """Everything of a run that is a number or a name, as `report.json` holds it."""
    if not storage.exists("recipe.yaml"):
        raise InputError(f"{storage.url} holds no run (no recipe.yaml); expected the workdir of a recipe")
    recipe, stages = _recipe(storage), status(storage)
    evaluation, training = (_json(storage, f"{name}/record.json") for name in ("evaluation", "training"))
    done = [one for one in _metrics(storage) if "loss" in one]
    report: dict[str, Any] = {
        "name": recipe["name"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": stages,
        "training": training,
        "plan": compare_with_plan(_json(storage, PLANNED), stages, done, training.get("world_size", 1), evaluation),
        "versions": _json(storage, "versions.json"),
    }
    if evaluation:
        size = {"queries": evaluation["queries"], "passages": evaluation["passages"]}
        models = {"base": recipe["student"]["model"], "student": f"{storage.url}/model"}
        report |= {side: {"model": models[side], **evaluation[side], **size} for side in models}
        report |= {key: evaluation[key] for key in ("difference", "verdict", "recommended")}
    return report


def render(storage: Storage, report: dict[str, Any]) -> str:
    """The HTML page of a gathered report."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("launcher"),
        autoescape=lambda name: name is None or not name.endswith(".css"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    recipe = _recipe(storage)
    training = report["training"]
    view = {
        "name": report["name"],
        "created": report["created"][:10],
        "recipe": storage.get("recipe.yaml").decode(),
        "facts": _facts(storage, recipe, training),
        "versions": list(report["versions"].items()),
        "listwise_version": report["versions"].get("listwise") or installed_version("listwise"),
        "funnel": [_stage(one) for one in report["stages"] if one["stage"] != "evaluation"],
        "training": _training(storage, training),
        "plan": [_planned(one) for one in report["plan"]],
        "base_model": recipe["student"]["model"],
        "student_model": f"{recipe['workdir'].rstrip('/')}/model",
        **_verdict(report),
        "queries": _queries(storage) if "student" in report else None,
    }
    return environment.get_template("report.html.j2").render(view)


# --- verdict and metrics ---------------------------------------------------------------------------------------------


def _verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    if "student" not in report:
        if report["training"]:
            lede = "No judged queries have compared it with its base yet; the dev lists alone do not decide that."
            return {"headline": "The student is trained, not judged", "verdict": lede, "metrics": []}
        return {"headline": "This run is not finished", "verdict": "", "metrics": []}
    base, student, difference = report["base"], report["student"], report["difference"]
    low, high = difference["low"], difference["high"]
    tone = "better" if low > 0 else "worse" if high < 0 else "same"
    sentence, _, rest = str(report["verdict"]).partition(": ")
    metrics = []
    for key, name in METRICS.items():
        if key in base and key in student:
            change = student[key] - base[key]
            known = key == "ndcg@10"
            metrics.append(
                {
                    "name": name,
                    "base": base[key],
                    "student": student[key],
                    "difference": change,
                    "tone": "win" if change > 0 else "loss" if change < 0 else "",
                    "interval": f"{low:+.4f} to {high:+.4f}" if known else "",
                    "p": _p(difference["p"]) if known else "",
                }
            )
    return {
        "headline": sentence,
        "verdict": rest,
        "metrics": metrics,
        "tone": tone,
        "interval": charts.interval_plot(low, difference["mean"], high),
        "interval_text": f"95 % interval {low:+.3f} to {high:+.3f}",
        "judged_on": f"Judged on {student['queries']:,} queries over {student['passages']:,} passages. "
        "The interval is a bootstrap over queries, p a paired t-test.",
    }


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# --- funnel ----------------------------------------------------------------------------------------------------------


def _stage(one: Mapping[str, Any]) -> dict[str, Any]:
    units = max(1, one["units"])
    dropped = sum(one["drops"].values())
    open_units = max(0, one["units"] - one["rows"] - dropped - one["rejects"])
    parts = [("rows", one["rows"], "kept")]
    parts += [("drops", count, reason) for reason, count in _largest(one["drops"])]
    parts += [("rejects", one["rejects"], "rejected"), ("open", open_units, "not done yet")]
    return {
        "table": one["table"],
        "unit": _plural(one["unit"]),
        "units": f"{one['units']:,}",
        "rows": f"{one['rows']:,}",
        "rejects": f"{one['rejects']:,}" if one["rejects"] else "",
        "drops": [
            (reason.replace("_", " "), f"{count:,}", _share(count, units)) for reason, count in _largest(one["drops"])
        ],
        "parts": [
            {"style": style, "width": round(100 * count / units, 3), "tip": f"{name}: {count:,}"}
            for style, count, name in parts
            if count
        ],
        "pace": _pace(one),
    }


def _largest(drops: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((reason, count) for reason, count in drops.items() if count), key=lambda drop: -drop[1])


def _plural(unit: str) -> str:
    if unit.endswith("y"):
        return unit[:-1] + "ies"
    return unit if "×" in unit else unit + "s"


def _share(count: int, units: int) -> str:
    share = 100 * count / units
    return f"{share:.0f} %" if share >= 1 else "under 1 %"


def _pace(one: Mapping[str, Any]) -> str:
    parts = [f"{one['shards_done']} of {one['shards']} shards", f"{one['seconds']:,.1f} s of work"]
    if one["seconds"] > 0:
        parts.append(f"{one['rows'] / one['seconds']:,.0f} rows/s")
        if one["tokens"]:
            parts.append(f"{one['tokens'] / one['seconds']:,.0f} tokens/s")
    return ", ".join(parts)


# --- plan beside reality ---------------------------------------------------------------------------------------------


def _planned(one: Mapping[str, Any]) -> dict[str, str]:
    """A row of the comparison in words."""
    (units, units_done), (tokens, tokens_done), (hours, hours_done) = one["units"], one["tokens"], one["hours"]
    known = hours and hours[1]
    return {
        "step": one["step"],
        "work": one["work"],
        "units": f"{units:,}",
        "units_done": f"{units_done:,}",
        "tokens": f"{tokens:,}" if tokens else "",
        "tokens_done": f"{tokens_done:,}" if tokens_done else "",
        "hours": f"{duration(hours[0] * 3600)} to {duration(hours[1] * 3600)}" if known else "",
        "hours_done": duration(hours_done * 3600),
    }


# --- training --------------------------------------------------------------------------------------------------------


def _training(storage: Storage, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Curves of training/metrics.jsonl."""
    lines = _metrics(storage)
    if not lines:
        return None

    def points(key: str) -> list[charts.Point]:
        # A run that continues writes the steps after its checkpoint again; the later line counts.
        return sorted({one["step"]: float(one[key]) for one in lines if one.get(key) is not None}.items())

    loss, divergence = points("loss"), points("kl")
    if divergence and divergence != loss:  # InfoNCE takes part; the dev loss is the KL alone
        curves = [("Loss", {"loss": loss}), ("KL over a list", {"KL": divergence, "dev KL": points("dev_loss")})]
    else:
        curves = [("Loss", {"loss": loss, "dev loss": points("dev_loss")})]
    drawn = [
        *((title, charts.line_chart(series, "step")) for title, series in curves),
        ("dev nDCG@10", charts.line_chart({"dev nDCG@10": points("dev_ndcg@10")}, "step", best="dev nDCG@10")),
        (
            "Times a passage is listed in one global batch",
            charts.line_chart({"repeats": points("repeats")}, "step", from_zero=True),
        ),
        (
            "Training queries per second",
            charts.line_chart({"queries per second": points("queries_per_s")}, "step", from_zero=True),
        ),
    ]
    return {
        "summary": _training_summary(record, points("queries_per_s")),
        "charts": [{"title": title, "chart": chart} for title, chart in drawn if chart],
    }


def _metrics(storage: Storage) -> list[dict[str, Any]]:
    """Lines of training/metrics.jsonl; a last one that is still being written is left out."""
    try:
        text = storage.get("training/metrics.jsonl").decode()
    except KeyError:
        return []
    lines = []
    for line in text.splitlines():
        with suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def _training_summary(record: Mapping[str, Any], speed: list[charts.Point]) -> str:
    sentences = []
    if "steps" in record:
        sentences.append(f"{record['steps']:,} steps in {record.get('seconds', 0):,.0f} s")
        if record.get("best_step") is not None:
            sentences.append(f"the model is that of step {record['best_step']:,}, the best on the dev lists")
    if speed:
        sentences.append(f"{sum(y for _, y in speed) / len(speed):,.1f} queries/s")
    return (", ".join(sentences) + ".") if sentences else "Still running."


# --- query by query --------------------------------------------------------------------------------------------------


def _queries(storage: Storage) -> dict[str, Any] | None:
    """Distribution of wins and losses from evaluation/per_query.jsonl, and the largest of each from examples.json."""
    try:
        lines = storage.get("evaluation/per_query.jsonl").decode().splitlines()
    except KeyError:
        return None
    rows = [json.loads(line) for line in lines]
    differences = [row["student"] - row["base"] for row in rows]
    wins, losses = sum(value > 0 for value in differences), sum(value < 0 for value in differences)
    examples = _json(storage, "evaluation/examples.json")
    return {
        "wins": f"{wins:,}",
        "losses": f"{losses:,}",
        "ties": f"{len(rows) - wins - losses:,}",
        "histogram": charts.difference_histogram(differences, "student minus base; ties are not drawn"),
        "sides": [
            {"title": "Largest gains", "tone": "win", "rows": examples.get("wins", [])[:SHOWN_QUERIES]},
            {"title": "Largest losses", "tone": "loss", "rows": examples.get("losses", [])[:SHOWN_QUERIES]},
        ],
    }


# --- the rest --------------------------------------------------------------------------------------------------------


def _facts(storage: Storage, recipe: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    teachers = ", ".join(f"{name} ({one['model'] or one['kind']})" for name, one in recipe["teachers"].items())
    engine = recipe["generation"]["model"] or recipe["generation"]["engine"]
    facts = [
        ("Workdir", storage.url),
        ("Corpus", recipe["corpus"]["path"]),
        ("Queries written by", engine),
        ("Teachers", teachers),
        ("Base of the student", recipe["student"]["model"]),
        ("Evaluation", recipe["evaluation"]["dataset"] or "none"),
    ]
    if training.get("model"):
        facts.append(("Specialised model", training["model"]))
    return facts


def _recipe(storage: Storage) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(storage.get("recipe.yaml"))


def _json(storage: Storage, path: str) -> dict[str, Any]:
    try:
        return json.loads(storage.get(path))
    except KeyError:
        return {}
