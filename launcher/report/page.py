"""The report of a run: `report.json` for programs, `report.html` for people.

The page is one file without scripts. It needs no network, and every text from the run is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cluster.tables.records import read_recipe
from cluster.tables.storage import Storage
from launcher.environment import installed_version
from launcher.report.by_query import by_query_view
from launcher.report.funnel import funnel_view, plan_view
from launcher.report.gather import gather
from launcher.report.queries import types_view
from launcher.report.teachers import teachers_view
from launcher.report.training import training_view
from launcher.report.verdict import verdict_view
from launcher.sample import sections


def build_report(storage: Storage) -> dict[str, Any]:
    """Writes `report.json` and `report.html` of a run, finished or not; returns the content of `report.json`.

    Raises:
        InputError: the folder holds no run.
    """
    report = gather(storage)
    storage.put("report.json", json.dumps(report, indent=2, ensure_ascii=False).encode())
    storage.put("report.html", render(storage, report).encode())
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
        "funnel": [funnel_view(stage) for stage in report["stages"] if stage["stage"] != "evaluation"],
        "types": types_view(
            report["query_types"],
            report["query_samples"],
            report["prompt_tokens"],
            report["query_writers"],
            report["query_grades"],
        ),
        "teachers": teachers_view(report["agreement"], report["ensemble"], report["adapted"]),
        "training": training_view(storage, training),
        "plan": [plan_view(row) for row in report["plan"]],
        "base_model": recipe["student"]["model"],
        "student_model": f"{recipe['workdir'].rstrip('/')}/model",
        **verdict_view(report),
        "queries": by_query_view(storage) if "student" in report else None,
    }
    return environment.get_template("report.html.j2").render(view)


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
