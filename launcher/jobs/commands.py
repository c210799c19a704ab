"""The commands for runs on a Ray cluster: submit, jobs, follow, stop."""

from __future__ import annotations

import shlex
import time
from typing import Annotated

import typer

from launcher.options import OverwriteOption, RecipeArgument, SetOption, UntilOption

AddressOption = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar="RAY_API_SERVER_ADDRESS",
        help="the cluster's dashboard, http://HOST:8265",
        show_envvar=True,
    ),
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="id of a job, as `submit` and `jobs` show it")]


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (submit, jobs, follow, stop):
        app.command()(command)


def submit(
    recipe: RecipeArgument,
    *,
    address: AddressOption,
    until: UntilOption = "evaluation",
    overwrite: OverwriteOption = None,
    changes: SetOption = None,
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME", help="environment variable to send to the job, such as HF_TOKEN; may be repeated"
        ),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="do not wait for the end of the job")] = False,
) -> None:
    """Run a recipe on a Ray cluster and follow its job. If a job runs the recipe already, follow that one.

    Ctrl-C ends the following, but not the job. Submit again to continue a run that was stopped or failed.
    """
    from cluster.overwrite import refuse_unknown
    from launcher.jobs import submit as submission
    from launcher.jobs.client import connect
    from launcher.jobs.follow import how_to
    from launcher.placement import refuse_training_in_a_bucket
    from launcher.recipe_file import load_recipe

    refuse_unknown("--until", [until])
    refuse_unknown("--overwrite", overwrite or [], parts=True)
    resolved = load_recipe(recipe, changes or [])
    refuse_training_in_a_bucket(resolved, until)
    variables = submission.check(resolved, env or [])
    options = ["--until", until] if until != "evaluation" else []
    options += [word for stage in overwrite or [] for word in ("--overwrite", stage)]
    cluster = connect(address)
    job = submission.submit(cluster, resolved, options, variables)
    if job.is_new:
        typer.echo(f"Job {job.job_id} runs {resolved.workdir}.\n{how_to(job.job_id, cluster.address)}")
    else:
        typer.echo(
            f"Job {job.job_id} works on {resolved.workdir} already, so no second one was started. That job does not "
            f"see your changes of the recipe or the options.\n{how_to(job.job_id, cluster.address)}"
        )
    if not detach:
        follow(job.job_id, address=address)


def jobs(address: AddressOption) -> None:
    """List the jobs that Listwise submitted to a cluster, with their status."""
    from cluster.watch.phrases import duration
    from launcher.jobs.client import connect

    cluster = connect(address)
    all_jobs = cluster.all()
    if not all_jobs:
        typer.echo(f"No job of listwise at {cluster.address}.")
        return
    rows = [("job", "status", "took", "workdir")]
    for job in all_jobs:
        took = duration((job.ended or time.time()) - job.started) if job.started else ""
        rows.append((job.id, f"{job.status} ({job.exit_code})" if job.exit_code else job.status, took, job.workdir))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:  # no table of rich: it would shorten ids and workdirs on a narrow terminal
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def follow(job: JobArgument, *, address: AddressOption) -> None:
    """Show the log of a job until it ends, then exit with its exit code: 0 done, 1 failed or stopped, 2 bad input."""
    from launcher.jobs.client import connect
    from launcher.jobs.follow import follow as watch
    from launcher.jobs.follow import how_to

    cluster = connect(address)
    try:
        watch(cluster, job, lambda text: typer.echo(text, err=True))
    except KeyboardInterrupt:
        typer.echo(f"\nYou no longer follow job {job}; it continues.\n{how_to(job, cluster.address)}", err=True)
        raise typer.Exit(130) from None


def stop(job: JobArgument, *, address: AddressOption) -> None:
    """Stop a job. What it has done is kept; submit the recipe again to continue."""
    from launcher.jobs import submit as submission
    from launcher.jobs.client import connect

    cluster = connect(address)
    if submission.stop(cluster, job):
        typer.echo(f"Stopped {shlex.quote(job)}. What it has done is kept; submit the recipe again to continue.")
    else:
        typer.echo(f"Job {shlex.quote(job)} had already ended.")
