"""The commands that look at the workdir of a run: status, sample, report, teachers, gc."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from launcher.options import SetOption, WorkdirArgument, say

if TYPE_CHECKING:
    from cluster.tables.storage import Storage


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (status, sample, report, teachers, gc):
        app.command()(command)


def status(
    workdir: WorkdirArgument,
    watch: Annotated[bool, typer.Option("--watch", help="update the output every two seconds, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print everything as JSON")] = False,
) -> None:
    """Show the state of a run, read from its files: shards, rejects, throughput, time left, slow workers."""
    from launcher.outcome import print_status, watch_status

    if watch and as_json:
        raise typer.BadParameter("choose --watch or --json")
    storage = existing(workdir)
    if watch:
        watch_status(storage)
    else:
        print_status(storage, as_json=as_json)


def sample(
    workdir: WorkdirArgument,
    what: Annotated[
        Literal["queries", "passages"], typer.Argument(metavar="[queries|passages]", help="what to look at")
    ] = "queries",
    count: Annotated[int, typer.Option("-n", min=1, help="number of passages")] = 20,
    query_type: Annotated[str | None, typer.Option("--type", help="only queries of this type")] = None,
    dropped: Annotated[
        str | None, typer.Option("--dropped", metavar="REASON", help="only answers that were dropped for this reason")
    ] = None,
) -> None:
    """Print passages and what was written for them, kept or dropped; of dropped answers a run keeps a few per shard."""
    from launcher import sample as samples
    from launcher.show_sample import print_sampled, print_totals

    if what == "passages" and (query_type or dropped):
        raise typer.BadParameter("--type and --dropped belong to queries")
    storage = existing(workdir)
    if what == "passages":
        print_sampled(samples.sample_passages(storage, count))
        return
    queries = samples.QuerySample(storage)
    queries.check(query_type, dropped)
    print_sampled(queries.passages(count, query_type, dropped))
    print_totals(queries)


def report(workdir: WorkdirArgument) -> None:
    """Write report.html and report.json of a run, finished or not."""
    from launcher.report.page import build_report

    storage = existing(workdir)
    build_report(storage)
    say(f"{storage.url}/report.html")


def teachers(
    source: Annotated[str, typer.Argument(metavar="WORKDIR|RECIPE", help="workdir of a run, or a recipe file")],
    *,
    dataset: Annotated[Path, typer.Option(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/")],
    split: Annotated[str, typer.Option(help="split of the qrels")] = "test",
    queries: Annotated[int | None, typer.Option(min=2, help="judge on a sample of this many queries")] = None,
    depth: Annotated[int, typer.Option(min=10, help="candidates of a query that are reranked")] = 100,
    changes: SetOption = None,
) -> None:
    """Judge the teachers of a recipe on judged queries, beside the student's base, before hours are spent.

    Works before a run, during and after it, without Ray.
    """
    from launcher.judge_teachers import judge, open_recipe
    from launcher.show_teachers import print_judgement

    recipe, ensemble = open_recipe(source, changes or [])
    print_judgement(judge(recipe, dataset, split, queries=queries, depth=depth, ensemble=ensemble))


def gc(workdir: WorkdirArgument) -> None:
    """Remove the files that killed workers have left: those that no finished table names."""
    from cluster.tables.gc import collect_all

    removed = collect_all(existing(workdir))
    for table, count in removed.items():
        say(f"{table}: {count} {'file' if count == 1 else 'files'} removed")
    if not removed:
        say("Nothing to remove.")


def existing(workdir: str) -> Storage:
    """Opens the workdir of a run that exists; it must not create one."""
    from cluster.errors import InputError
    from cluster.tables.storage import Storage

    if "://" not in workdir and not Path(workdir).expanduser().is_dir():
        raise InputError(f"there is no folder {workdir}; expected the workdir of a run")
    storage = Storage(workdir)
    if not storage.exists("recipe.yaml"):
        raise InputError(f"{workdir} holds no run (no recipe.yaml in it); expected the workdir of a run")
    return storage
