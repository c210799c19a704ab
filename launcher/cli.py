"""The command line. Each command imports what it needs when it runs, so that help and error messages come at once."""

from __future__ import annotations

import atexit
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher import ending, look, own_packages
from launcher import lists as list_commands
from launcher.jobs import commands
from launcher.options import OverwriteOption, RecipeArgument, SetOption, UntilOption, say

if TYPE_CHECKING:
    from launcher.recipe import Recipe

CTRL_C = 128 + signal.SIGINT

app = typer.Typer(
    name="listwise",
    help="Specialise a dense retriever to your corpus: synthetic queries, strong teachers, listwise distillation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
)


def main() -> None:
    """Runs a command, and ends the process with its exit code.

    An error of the user gives one message, a request to stop says how to continue, and a bug gives a traceback.
    """
    own_packages.leave_working_directory()
    if hiding := own_packages.what_hides_them():
        sys.stderr.write(f"error: {hiding}\n")
        sys.exit(2)
    from launcher.interrupt import Interrupts
    from launcher.streams import finish_output, show_any_text

    show_any_text()
    with Interrupts(give_up=ending.give_up) as interrupts:
        try:
            exit_code = _exit_code()
        except Exception as error:
            if interrupts.exit_code is None:
                ending.show(error)
            exit_code = getattr(error, "exit_code", 1)
        asked = interrupts.exit_code
        if asked is not None and (exit_code or asked != CTRL_C):  # Ctrl-C is how some commands end well
            exit_code = asked
            ending.say_farewell()
        atexit.register(ending.end_at_once_on_signals)  # the first thing at the end, while libraries clean up
    sys.exit(finish_output(exit_code))


def _exit_code() -> int:
    """Runs the command and returns its exit code."""
    from launcher.streams import BROKEN_PIPE

    try:
        app()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # whose libraries end the process with 1
            return BROKEN_PIPE
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return CTRL_C
    return 0


@app.command()
def init(
    path: Annotated[Path | None, typer.Argument(help="file to write; default: NAME.yaml in this folder")] = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="the shipped recipe: pydocs, laptop, small-gpu or cadet")
    ] = "pydocs",
) -> None:
    """Write a commented recipe to start from."""
    from cluster.errors import InputError
    from launcher.recipe_file import SHIPPED, shipped_recipes

    if recipe not in shipped_recipes():
        raise InputError(f"there is no shipped recipe {recipe!r}; there are {', '.join(shipped_recipes())}")
    target = path or Path(f"{recipe}.yaml")
    _write_new(target, (SHIPPED / f"{recipe}.yaml").read_text(encoding="utf-8"), "listwise init OTHER.yaml")
    say(f"Wrote {target}. Edit it, then: listwise run {shlex.quote(str(target))}")


@app.command()
def run(
    recipe: RecipeArgument,
    until: UntilOption = "evaluation",
    overwrite: OverwriteOption = None,
    changes: SetOption = None,
) -> None:
    """Run a recipe, or continue a run where it stopped.

    Stages: corpus, queries, grades, approved, embeddings, candidates, scores, lists, training, evaluation.
    """
    from cluster.machines import sent_variables
    from launcher import rank_variables
    from launcher.jobs.parcel import RECIPE
    from launcher.recipe_file import load_recipe

    say(f"{recipe}: reading it, and what it names", stderr=True)  # what follows is imported first, which takes seconds
    sent_variables.receive()  # before libraries read them
    rank_variables.forget("as for a rank of torchrun or srun, but a run starts its own ranks")
    resolved = load_recipe(recipe, changes or [])
    command = ["run", recipe, *(word for change in changes or [] for word in ("--set", change))]
    command += ["--until", until] if until != "evaluation" else []
    ending.continues_with(None if recipe == RECIPE else command)
    _run(resolved, until, frozenset(overwrite or []))


def _run(recipe: Recipe, until: str, overwrite: frozenset[str]) -> None:
    from cluster.tables.records import read_record
    from cluster.tables.storage import Storage
    from launcher import pipeline
    from launcher.outcome import print_outcome

    record = pipeline.execute(recipe, until, overwrite)
    if until != "evaluation":
        say(f"Done up to {until}. See its state with: listwise status {shlex.quote(recipe.workdir)}")
        return
    print_outcome(recipe, record, read_record(Storage(recipe.workdir), "training/record.json"))


@app.command()
def evaluate(
    *,
    model: Annotated[str, typer.Option(help="sentence-transformers model: path, packaged name or hub id")],
    dataset: Annotated[Path, typer.Option(help="BEIR folder: corpus.jsonl, queries.jsonl, qrels/")],
    output: Annotated[Path, typer.Option(help="folder for metrics.json and run.trec")],
    split: Annotated[str, typer.Option(help="split of the qrels")] = "test",
    max_query_tokens: Annotated[int, typer.Option(min=8, help="longer queries are truncated")] = 64,
    max_passage_tokens: Annotated[int, typer.Option(min=8, help="longer passages are truncated")] = 256,
    dimensions: Annotated[int | None, typer.Option(min=1, help="truncate embeddings to this many dimensions")] = None,
    query_prompt: Annotated[str | None, typer.Option(help="prefix of queries; default: the model's own")] = None,
    passage_prompt: Annotated[str | None, typer.Option(help="prefix of passages; default: the model's own")] = None,
    pooling: Annotated[str, typer.Option(help="auto, mean, cls or last; auto: as the model's files say")] = "auto",
    revision: Annotated[str | None, typer.Option(help="commit, branch or tag of a model of the hub")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="run code of the model's files")
    ] = False,
) -> None:
    """Evaluate any model on a BEIR data set; writes metrics.json and run.trec."""
    from distill.evaluation.evaluate import evaluate as judge
    from distill.settings.encoders import EncoderSettings
    from launcher.outcome import print_metrics
    from launcher.recipe_file import validate_options

    given = {"query_prompt": query_prompt, "passage_prompt": passage_prompt, "revision": revision}
    encoder = validate_options(
        EncoderSettings,
        {"model": model, "max_query_tokens": max_query_tokens, "max_passage_tokens": max_passage_tokens}
        | {"pooling": pooling, "trust_remote_code": trust_remote_code}
        | {name: value for name, value in given.items() if value is not None},
        [],
    )
    print_metrics(judge(encoder, dataset, split, output, dimensions=dimensions), output)


@app.command()
def train(
    *,
    lists: Annotated[
        str, typer.Option(help="scored lists: JSON lines (compressed too, or a folder), or the workdir of a run")
    ],
    student: Annotated[str, typer.Option(help="model to train: path, packaged name or hub id")],
    output: Annotated[Path, typer.Option(help="folder for checkpoints, metrics and the model")],
    ranks: Annotated[int | None, typer.Option(min=1, help="number of data-parallel ranks that Ray starts")] = None,
    dev_fraction: Annotated[
        float, typer.Option(min=0, max=0.9, help="share of a file's queries that evaluate the model during training")
    ] = 0.1,
    changes: SetOption = None,
) -> None:
    """Train a student on scored lists, without the stages before.

    Ray starts the ranks. Under torchrun or srun this process is one of the ranks:
    torchrun --nproc-per-node 8 --no-python listwise train --lists … --student … --output …
    """
    from launcher import train as training

    options = training.read_options(student, ranks, dev_fraction, changes or [])
    if training.is_rank():
        record = training.train_as_rank(lists, output, options, say)
    else:
        command = ["train", "--lists", lists, "--student", student, "--output", str(output)]
        command += ["--ranks", str(ranks)] if ranks else []
        command += ["--dev-fraction", str(dev_fraction)] if dev_fraction != training.DEV_FRACTION else []
        command += [word for change in changes or [] for word in ("--set", change)]
        ending.continues_with(command)
        record = training.train_on_ray(lists, output, options)
    say(f"{record['steps']} steps. {record['outcome']} Model: {record['model']}")


@app.command()
def plan(
    recipe: RecipeArgument,
    gpu: Annotated[
        str | None, typer.Option(help="kind of GPU: h100, a100, l4, …; default: this machine's, or h100")
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="number of GPUs that work at once")] = 1,
    price: Annotated[float | None, typer.Option(min=0, help="price of one GPU for an hour, in any currency")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="run one shard of each stage and measure its time")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print all figures as JSON")] = False,
    changes: SetOption = None,
) -> None:
    """Show what a run would do, need and cost, without running it; refuse a worker that does not fit its device."""
    from launcher.model_checks import check_here, checked_models
    from launcher.plan.show import make_plan, print_plan, refuse_what_does_not_fit
    from launcher.recipe_file import load_recipe

    resolved = load_recipe(recipe, changes or [])
    estimate = make_plan(resolved, gpu)
    read = [f"{field}: {found}" for field, found in check_here(checked_models(resolved))]
    if calibrate:
        from launcher.plan.calibrate import calibrate as run_shards

        refuse_what_does_not_fit(estimate)
        estimate = run_shards(resolved, estimate)
    if as_json:
        import json

        say(json.dumps(estimate.record(), indent=1))
        refuse_what_does_not_fit(estimate)
    else:
        print_plan(resolved, estimate, gpus, price, read)


@app.command()
def slurm(
    recipe: RecipeArgument,
    *,
    nodes: Annotated[int, typer.Option(min=1, help="number of nodes")],
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs of each node")],
    time: Annotated[str, typer.Option(help="time limit of one start: 12:00:00, 2-00:00:00; the job requeues itself")],
    cpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="CPU cores of each node; default: 8 for each GPU")
    ] = None,
    partition: Annotated[str | None, typer.Option(help="partition of the cluster")] = None,
    account: Annotated[str | None, typer.Option(help="account that pays for the time")] = None,
    container: Annotated[
        str | None, typer.Option(help="container image: FILE.sif for Apptainer, any other for Pyxis")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the job; default: the recipe's name")] = None,
    sbatch: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help="further option of sbatch, such as --sbatch=--mem=64G; may be repeated"),
    ] = None,
    until: Annotated[str, typer.Option(metavar="STAGE", help="stop after this stage")] = "evaluation",
    training_only: Annotated[
        bool, typer.Option("--training-only", help="only train on the workdir's lists, without Ray")
    ] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="file for the script")] = None,
    submit: Annotated[bool, typer.Option("--submit", help="submit the job to SLURM")] = False,
    changes: SetOption = None,
) -> None:
    """Write a recipe as a SLURM job to read and edit, or submit it.

    Without --output or --submit the script is printed.
    """
    from launcher.recipe_file import load_recipe
    from launcher.slurm.job import training_alone, whole_run
    from launcher.slurm.request import Request
    from launcher.slurm.submit import require_sbatch, submit_script

    if submit:
        require_sbatch()
    resolved = load_recipe(recipe, changes or [])
    options = tuple(sbatch or ())
    request = Request(nodes, gpus_per_node, time, cpus_per_node, partition, account, container, name, options)
    if training_only:
        job = training_alone(resolved, request)
    else:
        job = whole_run(recipe, resolved, changes or [], until, request)
    for note in job.notes:
        say(f"note: {note}", stderr=True)
    if output:
        _write_new(output, job.script, "listwise slurm … --output OTHER.sbatch")
        say(f"Wrote {output}. Submit it with: sbatch {shlex.quote(str(output))}")
    if submit:
        number = submit_script(job.script)
        say(f"Submitted job {number}. Log: listwise-{number}.log. State: squeue -j {number}. Stop: scancel {number}")
    if not (output or submit):
        typer.echo(job.script, nl=False)


@app.command()
def doctor(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="check this recipe's workdir, models and cluster too")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster to check; default: the recipe's")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print all findings as JSON")] = False,
    changes: SetOption = None,
) -> None:
    """Check this machine, and every node of a cluster: versions, devices, disks, clocks, workdir, models, network.

    Each problem comes with its remedy; the exit code is 1 if a run would fail.
    """
    from launcher.doctor.run_checks import report_checks
    from launcher.paths import absolute_paths
    from launcher.recipe_file import load_recipe

    resolved = absolute_paths(load_recipe(recipe, changes or [])) if recipe else None
    if not report_checks(resolved, address, as_json=as_json):
        raise typer.Exit(1)


look.add_to(app)
list_commands.add_to(app)
commands.add_to(app)


@app.command()
def kuberay(
    recipe: RecipeArgument,
    *,
    image: Annotated[str, typer.Option(help="container image with Ray and Listwise")],
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim that holds the workdir")],
    mount: Annotated[str, typer.Option(help="path at which the claim is mounted")] = "/mnt/listwise",
    gpu_nodes: Annotated[int, typer.Option(min=1, help="number of GPU pods, if the recipe needs GPUs")] = 1,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=1, help="GPUs of each pod; default: those of one worker")
    ] = None,
    cpu_nodes: Annotated[int, typer.Option(min=0, help="number of pods without GPUs")] = 1,
    cpus_per_node: Annotated[int, typer.Option(min=1, help="CPU cores of each pod")] = 8,
    memory_per_node: Annotated[str, typer.Option(help="memory of each pod")] = "32Gi",
    secret: Annotated[
        list[str] | None, typer.Option(help="Secret whose keys become environment variables; may be repeated")
    ] = None,
    token_secret: Annotated[
        str | None, typer.Option(help="Secret with Ray's token as auth_token; default: KubeRay makes one")
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, help="how often a failing run is started")] = 3,
    changes: SetOption = None,
) -> None:
    """Print a manifest that runs a recipe on Kubernetes: listwise kuberay RECIPE … | kubectl apply -f -"""
    from launcher.kuberay import KubernetesOptions, print_manifest
    from launcher.recipe_file import load_recipe

    options = KubernetesOptions(
        image=image, claim=claim, mount=mount, gpu_nodes=gpu_nodes, gpus_per_node=gpus_per_node, cpu_nodes=cpu_nodes,
        cpus_per_node=cpus_per_node, memory=memory_per_node, secrets=tuple(secret or ()), token_secret=token_secret,
        attempts=attempts,
    )  # fmt: skip
    print_manifest(load_recipe(recipe, changes or []), options)


def _write_new(target: Path, text: str, other: str) -> None:
    """Writes a file that does not exist yet; `other` is a command that names another file."""
    from cluster.errors import InputError

    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"{target} exists already; name another file: {other}") from None
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    main()
