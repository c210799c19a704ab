"""The recipe sections that `cluster` reads: the Ray cluster, the size of worker pools, and limits."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of every recipe section: it is immutable and refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolSettings(Settings):
    """The number of workers of a stage, and the resources of each."""

    workers: int | None = Field(None, ge=1, description="number of workers; empty: as many as the cluster can place")
    cpus: float | None = Field(
        None,
        ge=0,
        description="CPU cores per worker; empty: 1, or its share of a node where it computes with many threads",
    )
    gpus: float = Field(0.0, ge=0, description="GPUs per worker")
    resources: dict[str, float] = Field(default_factory=dict, description="custom Ray resources per worker")

    @property
    def cores(self) -> float:
        """CPU cores per worker; 1 where the recipe does not say."""
        return 1.0 if self.cpus is None else self.cpus

    def sharing(self, cores: float, nodes: int = 1) -> PoolSettings:
        """The pool with workers that share the cores of a node, if it names neither cores nor GPUs.

        Without a number of workers there is one on each node.

        Args:
            cores: of one node.
            nodes: among which the workers are spread evenly.
        """
        if self.cpus is not None or self.gpus:
            return self
        share = cores / (-(-self.workers // nodes) if self.workers else 1)
        return self.model_copy(update={"cpus": float(int(share)) if share >= 1 else share})


class ClusterSettings(Settings):
    """The Ray cluster and the limits of every stage that runs on it."""

    address: str | None = Field(
        None, description="Ray address to join; empty: start Ray on this machine, loopback only"
    )
    nodes: int | None = Field(
        None, ge=1, description="nodes to wait for in a cluster that is joined; empty: use those it has"
    )
    cpus: int | None = Field(None, ge=1, description="CPU cores of a Ray started here; empty: all of them")
    object_store_mib: int = Field(256, ge=80, description="object store of a Ray started here, MiB")
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Prometheus port of a Ray started here; empty: it offers no metrics"
    )
    io_pool: PoolSettings = Field(PoolSettings(), description="workers of the light stages: corpus, candidates, lists")
    shard_attempts: int = Field(
        3,
        ge=1,
        description="failures after which a shard is cut in two, or a single row rejected",
    )
    shard_timeout_s: float = Field(3600.0, gt=0, description="a shard that runs longer counts as hung")
    wait_timeout_s: float = Field(600.0, gt=0, description="longest wait for a resource or a worker to start")
    storage_timeout_s: float = Field(600.0, gt=0, description="longest time that storage may fail, or be full")
    handover_timeout_s: float = Field(
        60.0, gt=0, description="longest wait for a stage's processes to end and its devices to be free"
    )
    head_timeout_s: float = Field(
        45.0, gt=0, le=50, description="longest silence of the cluster's head; Ray itself ends the process after 60 s"
    )
    max_reject_fraction: float = Field(0.01, ge=0, le=1, description="more rejected units than this fail the run")
