"""Training on a Ray cluster: Ray Train places the ranks, and a mailbox carries their news to the driver."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from cluster.errors import InputError, RunError
from cluster.machines.garbage_collector import garbage_collection_off
from cluster.run import Run
from cluster.settings import PoolSettings
from distill.training.job import TrainingJob
from distill.training.mailbox import Mailbox
from distill.training.stop import stop_file

ALONE_S = 10.0  # that ranks may lie apart with the same error


MAX_FAILURES = 3  # a rank or node that dies is replaced so often; training continues from the newest checkpoint


def _on_ray(run: Run, job: TrainingJob, output: Path) -> dict[str, Any]:
    """Ranks on the cluster; their metrics come back through an actor and move the progress bar."""
    run.connect()  # before Ray is imported, since connecting decides what Ray reads then
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    training = job.training
    gpus = int(ray.cluster_resources().get("GPU", 0)) if training.gpus_per_rank else 0
    ranks = training.ranks or max(1, int(gpus / training.gpus_per_rank) if gpus else 1)
    run.check({"training": PoolSettings(workers=ranks, cpus=training.cpus_per_rank, gpus=training.gpus_per_rank)})
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # beside the driver, so that no node's death can take it along and leave the driver alive
    actor: Any = ray.remote(num_cpus=0)(Mailbox)
    relay = actor.options(scheduling_strategy=here).remote()
    trainer = _trainer_class()(
        _rank_loop,
        train_loop_config={"job": job.to_json(), "relay": relay},
        scaling_config=ScalingConfig(
            num_workers=ranks,
            use_gpu=training.gpus_per_rank > 0,
            resources_per_worker={"CPU": training.cpus_per_rank, "GPU": training.gpus_per_rank},
        ),
        torch_config=TorchConfig(backend="nccl" if training.gpus_per_rank else "gloo"),
        run_config=RunConfig(
            name="ray",
            storage_path=str(output),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            failure.append(error)
        finally:
            over.set()

    over = threading.Event()  # Thread.join takes a thread for dead when an exception interrupts it (Python 3.11)
    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    with run.progress.task("training", 0, "queries") as bar:
        thread.start()
        try:
            while not over.wait(0.3):
                _show(bar, ray.get(relay.drain.remote()))
        except KeyboardInterrupt:
            bar.note("stopping: the ranks finish their step and write a checkpoint")
            stop_file(output).touch()
            over.wait(run.settings.handover_timeout_s)
            raise
        _show(bar, ray.get(relay.drain.remote()))
        outcome = ray.get(relay.outcome.remote())
    ray.kill(relay)
    if outcome is None:
        said = str(failure[0]).strip().splitlines() if failure else ["no rank reported a result"]
        cause = said[-1] if said else type(failure[0]).__name__
        raise RunError(f"training failed: {cause}. The last checkpoint stays; the same command continues from it.")
    kind, value = outcome
    if kind == "done":
        return value
    raise (InputError if kind == "InputError" else RunError)(value)


def _trainer_class() -> Any:
    """Ray Train's trainer without its cleaner of placement groups.

    The cleaner asks Ray's dashboard whether the controller lives. A Ray that was started here has none, so that every
    training waited 12 s for the cleaner to end. A controller that dies ends the run, and Ray then frees what it held.
    """
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:  # of the trainer that Ray gives at run time
            made = super()._create_default_callbacks()  # type: ignore[misc]
            return [each for each in made if not isinstance(each, PlacementGroupCleanerCallback)]

    return Trainer


def _show(bar: Any, records: list[dict[str, Any]]) -> None:
    for record in records:
        if "total" in record:
            bar.resize(record["total"])
            bar.resumed(record["resumed"])
        elif "loss" in record:
            bar.advance(
                record["queries"], tokens=int(record["tokens_per_s"] * record["queries"] / record["queries_per_s"])
            )
            bar.note(f"loss {record['loss']:.4f}")
        elif "dev_ndcg@10" in record:
            bar.note(f"dev nDCG@10 {record['dev_ndcg@10']:.4f}")


def _rank_loop(config: dict[str, Any]) -> None:
    """One Ray Train worker. An error that a person must mend ends training at once instead of being tried again."""
    import ray
    from ray import train as ray_train

    from cluster.errors import ListwiseError

    with garbage_collection_off():
        from distill.training.trainer import train

    relay, job = config["relay"], TrainingJob.from_json(config["job"])
    context = ray_train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    if ray.get(relay.outcome.remote()):
        return  # Ray has started the ranks again, after an error that this would not mend
    try:
        record = train(job, on_record=relay.put.remote)
        if rank == 0:
            ray.get(relay.finish.remote("done", record))
    except ListwiseError as error:
        ray.get(relay.finish.remote(type(error).__name__, str(error)))
        limit = time.monotonic() + ALONE_S
        while ray.get(relay.ended.remote()) < ranks:
            if time.monotonic() > limit:
                raise  # this rank's alone: the others wait for it in a collective, and only their death ends that
            time.sleep(0.2)
