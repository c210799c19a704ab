"""The command line. Each command imports what it needs, so that help and mistakes answer at once."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from launcher.jobs import commands
from launcher.options import OverwriteOption, RecipeArgument, SetOption, UntilOption, WorkdirArgument

if TYPE_CHECKING:
    from cluster.tables.storage import Storage
    from launcher.recipe import Recipe

app = typer.Typer(
    name="listwise",
    help="Specialise a dense retriever to your corpus: synthetic queries, strong teachers, listwise distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Entry point: one message and an exit code for what a person can put right, a traceback for bugs."""
    from cluster.errors import ListwiseError

    try:
        app()
    except ListwiseError as error:
        _fail(str(error), error.exit_code)


def _fail(message: str, exit_code: int) -> None:
    from rich.console import Console

    text = Console(stderr=True, soft_wrap=True, highlight=False)
    text.print("[bold red]error:[/] ", end="")
    text.print(message, markup=False)
    sys.exit(exit_code)


@app.command()
def init(
    path: Annotated[Path | None, typer.Argument(help="file to write; empty: NAME.yaml in this folder")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="which shipped recipe: pydocs, laptop, small-gpu or cadet")
    ] = "pydocs",
) -> None:
    """Write a commented recipe to start from."""
    from cluster.errors import InputError
    from launcher.recipe import SHIPPED, shipped_recipes

    if recipe not in shipped_recipes():
        raise InputError(f"there is no shipped recipe {recipe!r}; there are {', '.join(shipped_recipes())}")
    target = path or Path(f"{recipe}.yaml")
    _write_new(target, (SHIPPED / f"{recipe}.yaml").read_text(encoding="utf-8"), "listwise init OTHER.yaml")
    _say(f"Wrote {target}. Change what you like, then: listwise run {shlex.quote(str(target))}")


@app.command()
def run(
    recipe: RecipeArgument,
    until: UntilOption = "evaluation",
    overwrite: OverwriteOption = None,
    changes: SetOption = None,
) -> None:
    """Run a recipe, or continue where it stopped.

    Stages: corpus, queries, embeddings, candidates, scores, lists, training, evaluation.
    """
    from launcher.jobs.parcel import RECIPE
    from launcher.recipe import load_recipe

    resolved = load_recipe(recipe, changes or [])
    words = ["run", recipe, *(word for change in changes or [] for word in ("--set", change))]
    words += ["--until", until] if until != "evaluation" else []
    with _continued_by(words, is_job=recipe == RECIPE):
        _run(resolved, until, frozenset(overwrite or []))


def _run(recipe: Recipe, until: str, overwrite: frozenset[str]) -> None:
    from launcher import pipeline
    from launcher.outcome import print_outcome

    record = pipeline.execute(recipe, until, overwrite)
    if until != "evaluation":
        _say(f"Done up to {until}. Look at it with: listwise status {shlex.quote(recipe.workdir)}")
        return
    print_outcome(recipe, record)


@app.command()
def status(
    workdir: WorkdirArgument,
    watch: Annotated[bool, typer.Option("--watch", help="show it again every two seconds, until Ctrl-C")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="everything that is known, for machines")] = False,
) -> None:
    """Show how far a run is: shards, rejects, throughput, time left, slow workers; from its files alone."""
    from launcher.outcome import print_status, watch_status

    if watch and as_json:
        raise typer.BadParameter("choose --watch or --json")
    storage = _existing(workdir)
    if watch:
        watch_status(storage)
    else:
        print_status(storage, as_json=as_json)


@app.command()
def evaluate(
    *,
    model: Annotated[str, typer.Option(help="sentence-transformers model: path, packaged name or hub id")],
    dataset: Annotated[Path, typer.Option(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/")],
    output: Annotated[Path, typer.Option(help="folder for metrics.json and run.trec")],
    split: Annotated[str, typer.Option(help="which qrels")] = "test",
    max_query_tokens: Annotated[int, typer.Option(min=8, help="longer queries are cut")] = 64,
    max_passage_tokens: Annotated[int, typer.Option(min=8, help="longer passages are cut")] = 256,
    dimensions: Annotated[int | None, typer.Option(min=1, help="cut embeddings at this many dimensions")] = None,
) -> None:
    """Judge any model on a BEIR data set: metrics.json and run.trec."""
    from distill.evaluation.evaluate import evaluate as judge
    from distill.settings import EncoderSettings
    from launcher.outcome import print_metrics

    encoder = EncoderSettings(model=model, max_query_tokens=max_query_tokens, max_passage_tokens=max_passage_tokens)
    print_metrics(judge(encoder, dataset, split, output, dimensions=dimensions), output)


@app.command()
def train(
    *,
    lists: Annotated[str, typer.Option(help="scored lists: JSON lines (.gz too), or the workdir of a run")],
    student: Annotated[str, typer.Option(help="model to train: path, packaged name or hub id")],
    output: Annotated[Path, typer.Option(help="folder for checkpoints, metrics and the model")],
    ranks: Annotated[int | None, typer.Option(min=1, help="data-parallel ranks that Ray places")] = None,
    dev_fraction: Annotated[float, typer.Option(min=0, max=0.9, help="share of queries that judge, of a file")] = 0.1,
    changes: SetOption = None,
) -> None:
    """Train a student on scored lists alone.

    Ray places the ranks; under torchrun or srun this process is one of them:
    torchrun --nproc-per-node 8 -m launcher.cli train --lists … --student … --output …
    """
    from launcher import train as training
    from launcher.interrupt import Interrupts

    options = training.read_options(student, ranks, dev_fraction, changes or [])
    if training.is_rank():
        record = training.train_as_rank(lists, output, options, _say)
    else:
        words = ["train", "--lists", lists, "--student", student, "--output", str(output)]
        words += ["--ranks", str(ranks)] if ranks else []
        words += ["--dev-fraction", str(dev_fraction)] if dev_fraction != training.DEV_FRACTION else []
        words += [word for change in changes or [] for word in ("--set", change)]
        with _continued_by(words), Interrupts():
            record = training.train_on_ray(lists, output, options)
    _say(f"{record['steps']} steps, best at {record['best_step']}. Model: {record['model']}")


@app.command()
def report(workdir: WorkdirArgument) -> None:
    """Write report.html and report.json of a run, finished or not."""
    from launcher.report import build_report

    storage = _existing(workdir)
    build_report(storage)
    _say(f"{storage.url}/report.html")


@app.command()
def plan(
    recipe: RecipeArgument,
    gpu: Annotated[
        str | None, typer.Option(help="kind of GPU: h100, a100, l4, …; empty: this machine's, or h100")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="how many of them work at once")] = 1,
    price: Annotated[float | None, typer.Option(min=0, help="of one GPU for an hour, in any currency")] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="run one shard of each stage, and time it")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="all figures, for machines")] = False,
    changes: SetOption = None,
) -> None:
    """Show what a run would do, need and cost, without doing it. What does not fit is refused."""
    from launcher.plan.show import make_plan, print_plan, refuse_what_does_not_fit
    from launcher.recipe import load_recipe

    resolved = load_recipe(recipe, changes or [])
    made = make_plan(resolved, gpu)
    if calibrate:
        from launcher.plan.calibrate import calibrate as run_shards

        refuse_what_does_not_fit(made)
        made = run_shards(resolved, made)
    if as_json:
        import json

        _say(json.dumps(made.record(), indent=1))
        refuse_what_does_not_fit(made)
    else:
        print_plan(resolved, made, gpus, price)


@app.command()
def slurm(
    recipe: RecipeArgument,
    *,
    nodes: Annotated[int, typer.Option(min=1, help="nodes of the job")],
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs of each node")],
    time: Annotated[str, typer.Option(help="limit of one start: 12:00:00, 2-00:00:00; the job comes back by itself")],
    cpus_per_node: Annotated[int | None, typer.Option(min=1, help="CPU cores of each node; empty: 8 a GPU")] = None,
    partition: Annotated[str | None, typer.Option(help="queue of the cluster")] = None,
    account: Annotated[str | None, typer.Option(help="whom the time is charged to")] = None,
    container: Annotated[str | None, typer.Option(help="image: FILE.sif for Apptainer, else for Pyxis")] = None,
    name: Annotated[str | None, typer.Option(help="what the queue calls it; empty: the recipe's name")] = None,
    sbatch: Annotated[
        list[str] | None, typer.Option(metavar="OPTION", help="of sbatch, such as --sbatch=--mem=64G; may be repeated")
    ] = None,
    until: Annotated[str, typer.Option(metavar="STAGE", help="stop after this stage")] = "evaluation",
    training_only: Annotated[
        bool, typer.Option("--training-only", help="train on the workdir's lists, without Ray")
    ] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="write the script there")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="send it to SLURM")] = False,
    changes: SetOption = None,
) -> None:
    """Write the SLURM job of a recipe, to read and edit, or send it.

    Without --output or --submit the script is printed.
    """
    from launcher.recipe import load_recipe
    from launcher.slurm.job import training_alone, whole_run
    from launcher.slurm.request import Request
    from launcher.slurm.submit import require_sbatch, send

    if submit:
        require_sbatch()
    resolved = load_recipe(recipe, changes or [])
    more = tuple(sbatch or ())
    request = Request(nodes, gpus_per_node, time, cpus_per_node, partition, account, container, name, more)
    if training_only:
        job = training_alone(resolved, request)
    else:
        job = whole_run(recipe, resolved, changes or [], until, request)
    for note in job.notes:
        _say(f"note: {note}", stderr=True)
    if output:
        _write_new(output, job.script, "listwise slurm … --output OTHER.sbatch")
        _say(f"Wrote {output}. Send it with: sbatch {shlex.quote(str(output))}")
    if submit:
        number = send(job.script)
        _say(f"Submitted job {number}. Log: listwise-{number}.log. Look: squeue -j {number}. End: scancel {number}")
    if not (output or submit):
        typer.echo(job.script, nl=False)


@app.command()
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="try this recipe's workdir, models and cluster too")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to examine; empty: the recipe's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="every finding, for machines")] = False,
    changes: SetOption = None,
) -> None:
    """Check this machine, and every node of a cluster: versions, devices, disks, clocks, workdir, models, network.

    Each finding comes with its remedy; exit code 1 if a run would fail.
    """
    from launcher.doctor.run_checks import report_checks
    from launcher.recipe import load_recipe

    resolved = load_recipe(recipe, changes or []) if recipe else None
    if not report_checks(resolved, address, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def gc(workdir: WorkdirArgument) -> None:
    """Remove files that no finished table names: what killed workers left behind."""
    from cluster.tables.gc import collect_all

    removed = collect_all(_existing(workdir))
    for table, count in removed.items():
        _say(f"{table}: {count} {'file' if count == 1 else 'files'} removed")
    if not removed:
        _say("Nothing to remove.")


commands.add_to(app)


@app.command()
def kuberay(
    recipe: RecipeArgument,
    *,
    image: Annotated[str, typer.Option(help="container image with Ray and Listwise")],
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim that holds the workdir")],
    mount: Annotated[str, typer.Option(help="where the claim is mounted")] = "/mnt/listwise",
    gpu_nodes: Annotated[int, typer.Option(min=1, help="GPU pods, if the recipe wants GPUs")] = 1,
    gpus_per_node: Annotated[int | None, typer.Option(min=1, help="GPUs of each; empty: what one worker wants")] = None,
    cpu_nodes: Annotated[int, typer.Option(min=0, help="pods without GPUs")] = 1,
    cpus_per_node: Annotated[int, typer.Option(min=1, help="CPU cores of each pod")] = 8,
    memory_per_node: Annotated[str, typer.Option(help="memory of each pod")] = "32Gi",
    secret: Annotated[
        list[str] | None, typer.Option(help="Secret whose keys become environment variables; may be repeated")
    ] = None,
    token_secret: Annotated[
        str | None, typer.Option(help="Secret with Ray's token as auth_token; empty: KubeRay makes one")
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="how often a run that fails is started")] = 3,
    changes: SetOption = None,
) -> None:
    """Print a manifest that runs a recipe on Kubernetes: listwise kuberay RECIPE … | kubectl apply -f -"""
    from launcher.kuberay import Places, print_manifest
    from launcher.recipe import load_recipe

    places = Places(
        image=image, claim=claim, mount=mount, gpu_nodes=gpu_nodes, gpus_per_node=gpus_per_node, cpu_nodes=cpu_nodes,
        cpus_per_node=cpus_per_node, memory=memory_per_node, secrets=tuple(secret or ()), token_secret=token_secret,
        attempts=attempts,
    )  # fmt: skip
    print_manifest(load_recipe(recipe, changes or []), places)


def _existing(workdir: str) -> Storage:
    """Opens a run that is there; looking at one must not create it."""
    from cluster.errors import InputError
    from cluster.tables.storage import Storage

    if "://" not in workdir and not Path(workdir).expanduser().is_dir():
        raise InputError(f"there is no folder {workdir}; expected the workdir of a run")
    storage = Storage(workdir)
    if not storage.exists("recipe.yaml"):
        raise InputError(f"{workdir} holds no run (no recipe.yaml in it); expected the workdir of a run")
    return storage


@contextlib.contextmanager
def _continued_by(words: list[str], is_job: bool = False) -> Iterator[None]:
    """On Ctrl-C or a signal to stop: says how to continue. The exit code is 128 + the signal's number."""
    from launcher.interrupt import Interrupted

    try:
        yield
    except KeyboardInterrupt as stop:
        # where a job runs is no place to continue from
        how = "submit the recipe again to continue." if is_job else f"continue with: {shlex.join(['listwise', *words])}"
        _say(f"\nInterrupted. What is done is kept; {how}", stderr=True)
        raise typer.Exit(stop.exit_code if isinstance(stop, Interrupted) else 130) from None


def _write_new(target: Path, text: str, other: str) -> None:
    """Writes a file that is not there yet; `other` is how to name another one."""
    from cluster.errors import InputError

    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{target} exists already; name another file: {other}") from None
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from None


def _say(text: Any, stderr: bool = False) -> None:
    from cluster.disclosure import printable

    typer.echo(printable(str(text)), err=stderr)


if __name__ == "__main__":
    main()
