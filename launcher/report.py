"""The report of a run, made from the files of its workdir: `report.json` for programs, `report.html` for people.

The page is one file without scripts. It needs no network, and every text from the run is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from cluster.errors import InputError
from cluster.tables.records import read_recipe, read_record
from cluster.tables.storage import Storage
from cluster.watch.phrases import duration, plural
from cluster.watch.status import masked, status
from distill.lists.duplicates import COPIES
from distill.training.chosen import BASE_STAYS, base_stays, chosen_in_words
from generation.type_figures import PASSAGE_CUT
from launcher import charts
from launcher.environment import installed_version
from launcher.plan.reality import PLANNED, compare_with_plan
from launcher.sample import has_judge, sections
from launcher.teacher_report import teachers_view
from launcher.type_report import prompt_tokens, query_grades, query_samples, query_types, query_writers, types_view

METRICS = {"ndcg@10": "nDCG@10", "recall@100": "recall@100", "mrr@10": "MRR@10"}
JUDGE_STAGES = ("grades", "approved")  # their tables stay where a judge was taken out of the recipe, and count no more
SHOWN_QUERIES = 8  # of the largest wins, and as many of the largest losses


def build_report(storage: Storage) -> dict[str, Any]:
    """Writes `report.json` and `report.html` of a run, finished or not; returns the content of `report.json`.

    Raises:
        InputError: the folder holds no run.
    """
    report = gather(storage)
    storage.put("report.json", json.dumps(report, indent=2, ensure_ascii=False).encode())
    storage.put("report.html", render(storage, report).encode())
    return report


def gather(storage: Storage) -> dict[str, Any]:
    """The content of `report.json`: the numbers and names of a run."""
    if not storage.exists("recipe.yaml"):
        raise InputError(f"{storage.url} holds no run (no recipe.yaml); expected the workdir of a recipe")
    recipe, stages = read_recipe(storage), status(storage)
    evaluation, training = (_json(storage, f"{name}/record.json") for name in ("evaluation", "training"))
    written = stages if has_judge(recipe) else [stage for stage in stages if stage["stage"] not in JUDGE_STAGES]
    steps = [line for line in _metrics(storage) if "loss" in line]
    report: dict[str, Any] = {
        "name": recipe["name"],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "stages": stages,
        "query_types": query_types(written),
        "query_grades": query_grades(written),
        "query_writers": query_writers(storage, written, recipe),
        "query_samples": query_samples(storage),
        "prompt_tokens": prompt_tokens(stages),
        "agreement": _json(storage, "agreement/record.json"),
        "ensemble": _json(storage, "ensemble/record.json"),
        "adapted": {
            name: record
            for name, teacher in recipe["teachers"].items()
            if teacher["kind"] == "adapted" and (record := _json(storage, f"teachers/{name}/record.json"))
        },
        "training": training,
        "plan": compare_with_plan(_json(storage, PLANNED), stages, steps, training.get("world_size", 1), evaluation),
        "versions": _json(storage, "versions.json"),
    }
    if "queries" in evaluation:
        sizes = {"queries": evaluation["queries"], "passages": evaluation["passages"]}
        models = {"base": recipe["student"]["model"], "student": f"{storage.url}/model"}
        report |= {side: {"model": models[side], **evaluation[side], **sizes} for side in models}
        report |= {key: evaluation[key] for key in ("difference", "verdict", "recommended")}
    return report


def render(storage: Storage, report: dict[str, Any]) -> str:
    """The HTML page of a report; `report` is the result of `gather`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("launcher"),
        autoescape=lambda name: name is None or not name.endswith(".css"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    recipe = read_recipe(storage)
    training = report["training"]
    view = {
        "name": report["name"],
        "created": report["created"][:10],
        "recipe": storage.get("recipe.yaml").decode(),
        "facts": _facts(storage, recipe, training),
        "versions": list(report["versions"].items()),
        "listwise_version": report["versions"].get("listwise") or installed_version("listwise"),
        "funnel": [_funnel_stage(stage) for stage in report["stages"] if stage["stage"] != "evaluation"],
        "types": types_view(
            report["query_types"],
            report["query_samples"],
            report["prompt_tokens"],
            report["query_writers"],
            report["query_grades"],
        ),
        "teachers": teachers_view(report["agreement"], report["ensemble"], report["adapted"]),
        "training": _training(storage, training),
        "plan": [_plan_row(row) for row in report["plan"]],
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
            headline = "The student is trained, not judged"
            if base_stays(report["training"]):
                headline, lede = BASE_STAYS, _base_stays(report["training"])
            return {"headline": headline, "verdict": lede, "metrics": []}
        return {"headline": "This run is not finished", "verdict": "", "metrics": []}
    base, student, difference = report["base"], report["student"], report["difference"]
    low, high = difference["low"], difference["high"]
    tone = "better" if low > 0 else "worse" if high < 0 else "same"
    sentence, _, rest = str(report["verdict"]).partition(": ")
    if base_stays(report["training"]):
        sentence, rest = BASE_STAYS, _base_stays(report["training"])
    metrics = []
    for key, name in METRICS.items():
        if key in base and key in student:
            change = student[key] - base[key]
            is_tested = key == "ndcg@10"  # the metric of the significance test
            metrics.append(
                {
                    "name": name,
                    "base": base[key],
                    "student": student[key],
                    "difference": change,
                    "tone": "win" if change > 0 else "loss" if change < 0 else "",
                    "interval": f"{low:+.4f} to {high:+.4f}" if is_tested else "",
                    "p": _p(difference["p"]) if is_tested else "",
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


def _base_stays(training: Mapping[str, Any]) -> str:
    """What follows the headline where no step was better than the base."""
    rest = chosen_in_words(training).partition(": ")[2]
    return rest[:1].upper() + rest[1:]


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


# --- funnel ----------------------------------------------------------------------------------------------------------


def _funnel_stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    """One table of the funnel: its units as rows, drops, rejects and unfinished units."""
    units = max(1, stage["units"])
    drops = _largest_first(stage["drops"])
    unfinished = max(0, stage["units"] - stage["rows"] - sum(stage["drops"].values()) - stage["rejects"])
    parts = [("rows", stage["rows"], "kept")]
    parts += [("drops", count, reason) for reason, count in drops]
    parts += [("rejects", stage["rejects"], "rejected"), ("open", unfinished, "not done yet")]
    return {
        "table": stage["table"],
        "unit": plural(stage["unit"]),
        "units": f"{stage['units']:,}",
        "rows": f"{stage['rows']:,}",
        "rejects": f"{stage['rejects']:,}" if stage["rejects"] else "",
        "drops": [(reason.replace("_", " "), f"{count:,}", _share(count, units)) for reason, count in drops],
        "parts": [
            {"style": style, "width": round(100 * count / units, 3), "tip": f"{name}: {count:,}"}
            for style, count, name in parts
            if count
        ],
        "pace": _pace(stage),
        "cut": f"{cut:,}" if (cut := stage["stats"].get(PASSAGE_CUT, 0)) else "",
        "copies": f"{copies:,}" if (copies := stage["stats"].get(COPIES, 0)) else "",
        "masked": [(name, f"{count:,}") for name, count in masked(stage)],
    }


def _largest_first(drops: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(((reason, count) for reason, count in drops.items() if count), key=lambda drop: -drop[1])


def _share(count: int, units: int) -> str:
    share = 100 * count / units
    return f"{share:.0f} %" if share >= 1 else "under 1 %"


def _pace(stage: Mapping[str, Any]) -> str:
    parts = [f"{stage['shards_done']} of {stage['shards']} shards", f"{stage['seconds']:,.1f} s of work"]
    if stage["held_s"] > 0:
        parts.append(f"{stage['cpu_s'] / stage['held_s']:.0%} of the held cores used")
    if stage["seconds"] > 0:
        parts.append(f"{stage['rows'] / stage['seconds']:,.0f} rows/s")
        if stage["tokens"]:
            parts.append(f"{stage['tokens'] / stage['seconds']:,.0f} tokens/s")
    return ", ".join(parts)


# --- plan and run ---------------------------------------------------------------------------------------------


def _plan_row(row: Mapping[str, Any]) -> dict[str, str]:
    """The texts of one row of `compare_with_plan`."""
    (units, units_done), (tokens, tokens_done), (hours, hours_done) = row["units"], row["tokens"], row["hours"]
    has_hours = hours and hours[1]
    return {
        "step": row["step"],
        "work": row["work"],
        "units": f"{units:,}",
        "units_done": f"{units_done:,}",
        "tokens": f"{tokens:,}" if tokens else "",
        "tokens_done": f"{tokens_done:,}" if tokens_done else "",
        "hours": f"{duration(hours[0] * 3600)} to {duration(hours[1] * 3600)}" if has_hours else "",
        "hours_done": duration(hours_done * 3600),
    }


# --- training --------------------------------------------------------------------------------------------------------


def _training(storage: Storage, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The curves of training/metrics.jsonl; None if there are none yet."""
    lines = _metrics(storage)
    if not lines:
        return None

    def points(key: str) -> list[charts.Point]:
        # A resumed run writes the steps after its checkpoint again; the later line counts.
        return sorted({line["step"]: float(line[key]) for line in lines if line.get(key) is not None}.items())

    loss, divergence = points("loss"), points("kl")
    if divergence and divergence != loss:  # the loss contains InfoNCE; the dev loss is only the KL
        curves = [("Loss", {"loss": loss}), ("KL over a list", {"KL": divergence, "dev KL": points("dev_loss")})]
    else:
        curves = [("Loss", {"loss": loss, "dev loss": points("dev_loss")})]
    titled_charts = [
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
        "charts": [{"title": title, "chart": chart} for title, chart in titled_charts if chart],
    }


def _metrics(storage: Storage) -> list[dict[str, Any]]:
    """The records of training/metrics.jsonl; a last line that is still being written is left out."""
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
    if speed:
        sentences.append(f"{sum(y for _, y in speed) / len(speed):,.1f} queries/s")
    chosen = f" {chosen_in_words(record)}" if record.get("best_step") is not None else ""
    return f"{', '.join(sentences)}.{chosen}" if sentences else "Still running."


# --- query by query --------------------------------------------------------------------------------------------------


def _queries(storage: Storage) -> dict[str, Any] | None:
    """The distribution of wins and losses from per_query.jsonl, and the largest of both from examples.json."""
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


# --- facts and files -------------------------------------------------------------------------------------------------


def _facts(storage: Storage, recipe: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    teachers = ", ".join(
        f"{name} ({teacher['model'] or teacher['kind']})" for name, teacher in recipe["teachers"].items()
    )
    engine = ", ".join(one["model"] or one["engine"] for one in sections(recipe))
    facts = [
        ("Workdir", storage.url),
        ("Corpus", recipe["corpus"]["path"]),
        ("Queries written by", engine),
        ("Teachers", teachers),
        ("Base of the student", recipe["student"]["model"]),
        ("Evaluation", recipe["evaluation"]["dataset"] or "none"),
    ]
    if training.get("model"):
        facts.append(("Specialised model", f"{storage.url}/model"))
    return facts


def _json(storage: Storage, path: str) -> dict[str, Any]:
    return read_record(storage, path) or {}
