"""Training on a Ray cluster: Ray Train places the ranks, and a mailbox carries their news to the driver."""

from __future__ import annotations

import importlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import InputError, RunError
from cluster.machines import fork_server, ray_errors, sent_variables, session
from cluster.machines.garbage_collector import garbage_collection_off
from cluster.machines.private_folder import keep_caches_private
from cluster.run import Run
from cluster.settings import PoolSettings
from cluster.watch.phrases import duration
from cluster.workers.threads import use_held_cores
from distill.encoders.encoder import LIBRARIES
from distill.settings.training import TrainingSettings
from distill.training.mailbox import Mailbox
from distill.training.stop import stop_file

REPORT_WITHIN_S = 10.0  # a rank that fails waits so long for the others to report the same error
MAX_FAILURES = 3  # a rank or node that dies is replaced so often; training continues from the newest checkpoint
POLL_S = 0.3
STUDENT = "distill.training.trainer"


class Job(Protocol):
    """What every rank is given; `training` says how many ranks there are, and what each of them holds."""

    @property
    def training(self) -> TrainingSettings:
        """Ranks, cores and GPUs of each."""
        ...

    def to_json(self) -> str:
        """The whole job as text."""
        ...


def run_ranks(run: Run, job: Job, output: Path, title: str = "training", module: str = STUDENT) -> dict[str, Any]:
    """Trains on ranks that Ray places, and shows their metrics as progress.

    Args:
        run: on whose cluster.
        job: what every rank is given.
        output: the training's folder.
        title: name of the training, for the progress bar and for errors.
        module: module whose `train_from` every rank calls, with the job as JSON and `on_record`.

    Returns:
        The record of the training, see `train`.

    Raises:
        InputError: bad lists, or no node can hold a rank.
        RunError: the ranks died more than `MAX_FAILURES` times, or the loss is no number.
        KeyboardInterrupt: as it came, after ranks that have done a step have written a checkpoint.
    """
    run.connect()  # before Ray is imported, since connecting decides what Ray reads then
    import ray

    ranks = _ranks(job.training, ray.cluster_resources())
    pool = session.with_all_cores(job.training.pool.model_copy(update={"workers": ranks}))
    run.check({title: pool})
    fork_server.preload((*LIBRARIES, "deepspeed", module))
    mailbox = _start_mailbox()
    fit = _Fit(_ray_trainer(job, pool, output, mailbox, module, title))
    with run.progress.task(title, 0, "queries") as bar:
        bar.note(f"starts {ranks} {'rank' if ranks == 1 else 'ranks'}")
        fit.start()
        try:
            while not fit.over.wait(POLL_S):
                _show(bar, ray.get(mailbox.drain.remote()), run.progress.say)
        except KeyboardInterrupt:
            if _has_step(output):  # there is something to save
                _end_after_the_step(fit, run, output)
            raise
        _show(bar, ray.get(mailbox.drain.remote()), run.progress.say)
        outcome = ray.get(mailbox.outcome.remote())
    ray.kill(mailbox)
    return _result(outcome, fit.error, run)


def _has_step(output: Path) -> bool:
    """Whether the ranks have done a step, now or in an earlier run: rank 0 writes a line of metrics for each."""
    return _last_step(output) is not None


def _last_step(output: Path) -> dict[str, Any] | None:
    """The last whole line of metrics of a step; rank 0 may be writing another."""
    metrics = output / "metrics.jsonl"
    lines = metrics.read_text().split("\n")[:-1] if metrics.is_file() else []
    return next((json.loads(line) for line in reversed(lines) if '"loss"' in line), None)


def _end_after_the_step(fit: _Fit, run: Run, output: Path) -> None:
    """Asks the ranks to stop, and waits as long as a step has been taking, and its checkpoint."""
    step_s = (_last_step(output) or {}).get("seconds", 0.0)
    limit_s = 2 * step_s + run.settings.handover_timeout_s
    kept = max((path.name for path in output.glob("checkpoints/step-*")), default="the beginning")
    run.progress.say(
        f"stopping: the ranks finish their step, which took {duration(step_s)} the last time, and write a checkpoint. "
        f"A second signal ends them at once; what they have done since {kept} is lost then."
    )
    stop_file(output).touch()
    if not fit.over.wait(limit_s):
        run.progress.say(
            f"the ranks have not ended within {duration(limit_s)}. They are ended now, and what they have done since "
            f"{kept} is lost."
        )


def _ranks(training: TrainingSettings, resources: dict[str, float]) -> int:
    """Number of ranks: the recipe's, else one for each GPU of the cluster, else one."""
    gpus = int(resources.get("GPU", 0)) if training.gpus_per_rank else 0
    return training.ranks or max(1, int(gpus / training.gpus_per_rank) if gpus else 1)


def _start_mailbox() -> Any:
    """Actor on the driver's node: on another node it would die with that node, while the driver lives."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(num_cpus=0)(Mailbox)
    return actor.options(scheduling_strategy=here).remote()


def _ray_trainer(job: Job, pool: PoolSettings, output: Path, mailbox: Any, module: str, title: str) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from distill.training.failures import TellFailures
    from distill.training.ray_group import OwnGroup

    training = job.training
    callbacks: list[Any] = [TellFailures(mailbox, title, MAX_FAILURES)]  # Ray's types name Ray Tune's callbacks alone
    return _trainer_class()(
        _rank_loop,
        train_loop_config={
            "job": job.to_json(),
            "mailbox": mailbox,
            "module": module,
            "variables": sent_variables.received(),
        },
        scaling_config=ScalingConfig(
            num_workers=pool.workers or 1,
            use_gpu=training.gpus_per_rank > 0,
            resources_per_worker={"CPU": pool.cores, "GPU": training.gpus_per_rank},
        ),
        torch_config=OwnGroup(),
        run_config=RunConfig(
            name="ray",
            storage_path=str(output),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            callbacks=callbacks,
        ),
    )


def _trainer_class() -> Any:
    """Ray Train's trainer without its cleaner of placement groups.

    The cleaner asks Ray's dashboard whether the controller lives. A Ray that was started here has no dashboard, so that
    every training waited 12 s for the cleaner to end. A controller that dies ends the run, and Ray then frees what it
    held.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:  # of the trainer that Ray gives at run time
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if not isinstance(callback, PlacementGroupCleanerCallback)]

    return Trainer


class _Fit:
    """Ray Train's `fit` in a thread, so that the driver can show progress and take signals meanwhile.

    Attributes:
        over: set when `fit` has ended. (`Thread.join` takes a thread for dead when an exception interrupts it in
            Python 3.11.)
        error: what `fit` raised; None if nothing.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self.over = threading.Event()
        self.error: BaseException | None = None

    def start(self) -> None:
        threading.Thread(target=self._run, name="ray-train", daemon=True).start()

    def _run(self) -> None:
        try:
            self._trainer.fit()
        except BaseException as error:
            self.error = error
        finally:
            self.over.set()


def _result(outcome: tuple[str, Any] | None, error: BaseException | None, run: Run) -> dict[str, Any]:
    """Record of a training that a rank reported as done; else the error that a rank or Ray Train gave."""
    if outcome is None:
        failures = getattr(error, "worker_failures", None)
        if failures:
            from distill.training.failures import first_cause

            cause = first_cause(failures)[1]
        else:
            cause = ray_errors.last_line(error) if error else "no rank reported a result"
        details = f" Details: {run.log_error(error)}" if error else ""
        raise RunError(
            f"training failed: {cause}. The last checkpoint stays; the same command continues from it.{details}"
        ) from error
    kind, value = outcome
    if kind == "done":
        return value
    raise (InputError if kind == "InputError" else RunError)(value)


def _show(bar: Any, records: list[dict[str, Any]], say: Callable[[str], None]) -> None:
    """Moves the progress bar by lines of metrics.jsonl, and says what the ranks have to say."""
    for record in records:
        if "note" in record:
            say(record["note"])
        elif "doing" in record:
            bar.note(record["doing"])
        elif "total" in record:
            bar.resize(record["total"])
            bar.resumed(record["resumed"])
        elif "loss" in record:
            seconds = record["queries"] / record["queries_per_s"] if record["queries_per_s"] else 0.0
            bar.advance(record["queries"], tokens=int(record["tokens_per_s"] * seconds))
            cores = f", {record['cores_used']:.1f} cores used by rank 0" if "cores_used" in record else ""
            bar.note(f"loss {record['loss']:.4f}{cores}")
        elif "dev_ndcg@10" in record:
            bar.note(f"dev nDCG@10 {record['dev_ndcg@10']:.4f}")


def _rank_loop(config: dict[str, Any]) -> None:
    """One Ray Train worker. An error that a person must mend ends training at once instead of being tried again."""
    import ray
    from ray import train as ray_train

    from cluster.errors import ListwiseError

    sent_variables.take(config["variables"])
    keep_caches_private()
    with garbage_collection_off():
        train_from = importlib.import_module(config["module"]).train_from

    use_held_cores()
    mailbox, job = config["mailbox"], config["job"]
    context = ray_train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    if ray.get(mailbox.outcome.remote()):
        return  # Ray has started the ranks again, after an error that this would not mend
    try:
        record = train_from(job, on_record=mailbox.put.remote)
        if rank == 0:
            ray.get(mailbox.finish.remote("done", record))
    except ListwiseError as error:
        ray.get(mailbox.finish.remote(type(error).__name__, str(error)))
        limit = time.monotonic() + REPORT_WITHIN_S
        while ray.get(mailbox.ended.remote()) < ranks:
            if time.monotonic() > limit:
                raise  # this rank's alone: the others wait for it in a collective, and only its death ends that
            time.sleep(0.2)
