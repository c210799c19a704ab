"""The manifest that runs a recipe on Kubernetes: a RayJob for KubeRay, and a ConfigMap with the recipe.

All pods share the workdir through one PersistentVolumeClaim, so the next attempt continues a failed one. The manifest
names Secrets and never contains them. Groups of pods have a fixed size: each stage takes as many workers as the cluster
can hold when the stage begins.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

import yaml

from cluster.disclosure import printable
from cluster.errors import InputError
from cluster.settings import PoolSettings
from launcher import remote
from launcher.placement import pools
from launcher.recipe import Recipe

RECIPE_FOLDER = "/etc/listwise"
HEAD = {"cpu": "4", "memory": "16Gi"}  # of the pod that runs the driver, which also evaluates
KEEP_S = 600  # seconds that a cluster stays after its job, so that a person can examine it
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class KubernetesOptions:
    """The pods to ask Kubernetes for, and the names of what they use.

    Args:
        image: container image with Ray and Listwise, the same for all pods.
        claim: PersistentVolumeClaim that every pod can write to (ReadWriteMany).
        mount: path at which the claim is mounted.
        gpu_nodes: number of pods with GPUs, if the recipe needs GPUs.
        gpus_per_node: GPUs of each GPU pod; None: those of the largest worker.
        cpu_nodes: number of pods without GPUs.
        cpus_per_node: CPU cores of each pod.
        memory: memory of each pod, as Kubernetes writes it.
        secrets: names of Secrets whose keys become environment variables.
        token_secret: Secret that holds Ray's token as `auth_token`; None: KubeRay makes one.
        attempts: how often a failing run is started.
    """

    image: str
    claim: str
    mount: str = "/mnt/listwise"
    gpu_nodes: int = 1
    gpus_per_node: int | None = None
    cpu_nodes: int = 1
    cpus_per_node: int = 8
    memory: str = "32Gi"
    secrets: tuple[str, ...] = ()
    token_secret: str | None = None
    attempts: int = 3


def print_manifest(recipe: Recipe, options: KubernetesOptions) -> None:
    """Prints the manifest.

    Raises:
        InputError: see `manifest`.
    """
    print(to_yaml(*manifest(recipe, options), notes(recipe, options)), end="")


def manifest(recipe: Recipe, options: KubernetesOptions) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ConfigMap that holds the recipe, and the RayJob that runs it.

    Raises:
        InputError: the workdir is outside of the volume, the pods do not have an input, Kubernetes does not accept a
            name, or a worker fits on no pod.
    """
    _check_paths(recipe, options)
    for option, names in (
        ("--claim", [options.claim]), ("--secret", options.secrets), ("--token-secret", [options.token_secret]),
    ):  # fmt: skip
        for name in names:
            if name is not None and not remote.is_label(name):
                raise InputError(
                    f"{option} {name}: Kubernetes does not accept this name; expected one such as my-claim (RFC 1123)"
                )
    name = remote.label(recipe.name)
    joining = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"address": "auto"})})
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-recipe", "labels": {"app.kubernetes.io/name": "listwise"}},
        "data": {"recipe.yaml": joining.to_yaml()},
    }
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "listwise"}},
        "spec": {
            "entrypoint": shlex.join(["listwise", "run", f"{RECIPE_FOLDER}/recipe.yaml"]),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEEP_S,
            "backoffLimit": options.attempts - 1,
            "rayClusterSpec": _cluster(name, recipe, options),
        },
    }
    return config, job


def _check_paths(recipe: Recipe, options: KubernetesOptions) -> None:
    mount = PurePosixPath(options.mount)
    if not mount.is_absolute() or mount == PurePosixPath("/"):
        raise InputError(f"--mount {options.mount}: expected an absolute path of its own, such as /mnt/listwise")
    workdir = PurePosixPath(recipe.workdir)
    if "://" in recipe.workdir or ".." in workdir.parts or mount not in (workdir, *workdir.parents):
        raise InputError(
            f"workdir '{recipe.workdir}' is not on the volume that all pods share, mounted at {mount}; for example "
            f"--set workdir={mount}/{remote.label(recipe.name)}"
        )
    for field, path in remote.relative_inputs(recipe).items():
        raise InputError(
            f"{field} '{path}' is not absolute, so pods cannot find it. Put it on the volume and name its path on the "
            f"volume, for example --set {field}={mount}/{PurePosixPath(path).name}"
        )


def _cluster(name: str, recipe: Recipe, options: KubernetesOptions) -> dict[str, Any]:
    auth = {"mode": "token"} | ({"secretName": options.token_secret} if options.token_secret else {})
    head = {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
        "template": _pod("ray-head", name, options, HEAD),
    }
    return {
        "rayVersion": metadata.version("ray"),
        "authOptions": auth,
        "headGroupSpec": head,
        "workerGroupSpecs": _groups(name, recipe, options),
    }


def _groups(name: str, recipe: Recipe, options: KubernetesOptions) -> list[dict[str, Any]]:
    """A group of GPU pods if a pool needs GPUs, and a group of pods without GPUs for the other pools."""
    pool_by_stage = pools(recipe)
    on_gpus = {stage: pool for stage, pool in pool_by_stage.items() if pool.gpus}
    on_cpus = {stage: pool for stage, pool in pool_by_stage.items() if not pool.gpus}
    resources = {"cpu": str(options.cpus_per_node), "memory": options.memory}
    gpus = options.gpus_per_node or max((math.ceil(pool.gpus) for pool in on_gpus.values()), default=0)
    gpu_nodes = options.gpu_nodes if on_gpus else 0
    if gpu_nodes + options.cpu_nodes == 0:
        raise InputError("--cpu-nodes 0: the recipe needs no GPUs, so there would be no pod for the workers")
    _check_fit(on_gpus, options.cpus_per_node, gpus)
    _check_fit(on_cpus, options.cpus_per_node, 0)
    _check_ranks(pool_by_stage["training"], options, gpu_nodes, gpus)
    groups = []
    if gpu_nodes:
        groups.append(_group("gpu", gpu_nodes, _pod("ray-worker", name, options, resources | {GPU: str(gpus)})))
    if options.cpu_nodes:
        groups.append(_group("cpu", options.cpu_nodes, _pod("ray-worker", name, options, resources)))
    return groups


def _check_fit(pool_by_stage: dict[str, PoolSettings], cpus: int, gpus: int) -> None:
    """Checks that a pod can hold one worker of every pool."""
    for stage, pool in pool_by_stage.items():
        if pool.gpus > gpus:
            raise InputError(f"stage {stage}: each worker wants {pool.gpus:g} GPUs, and --gpus-per-node is {gpus}")
        if pool.cores > cpus:
            raise InputError(
                f"stage {stage}: each worker wants {pool.cores:g} CPU cores, and --cpus-per-node is {cpus}"
            )


def _check_ranks(training: PoolSettings, options: KubernetesOptions, gpu_nodes: int, gpus: int) -> None:
    """Checks that the pods can hold all training ranks at once; other pools also work with fewer workers."""
    cpus = int(options.cpus_per_node / training.cores) if training.cores else training.workers or 1
    if training.gpus:
        places = gpu_nodes * min(int(gpus / training.gpus), cpus)
        resource, remedy = f"{training.gpus:g} GPUs", "--gpu-nodes or --gpus-per-node"
    else:
        places = (gpu_nodes + options.cpu_nodes) * cpus
        resource, remedy = f"{training.cores:g} CPU cores", "--cpu-nodes or --cpus-per-node"
    if (training.workers or 1) > places:
        raise InputError(
            f"training: {training.workers} ranks of {resource} each, and the pods hold {places} of them; raise "
            f"{remedy}, or lower training.ranks"
        )


def _group(name: str, nodes: int, pod: dict[str, Any]) -> dict[str, Any]:
    size = {"replicas": nodes, "minReplicas": nodes, "maxReplicas": nodes}
    return {"groupName": name, **size, "rayStartParams": {}, "template": pod}


def _pod(container: str, name: str, options: KubernetesOptions, resources: dict[str, str]) -> dict[str, Any]:
    """The template of a pod; limits equal requests, so that the pod always has the resources that it requested."""
    mounts = {"workdir": options.mount, "recipe": RECIPE_FOLDER, "shm": "/dev/shm"}
    spec: dict[str, Any] = {
        "name": container,
        "image": options.image,
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "volumeMounts": [
            {"name": volume, "mountPath": path} | ({"readOnly": True} if volume == "recipe" else {})
            for volume, path in mounts.items()
        ],
    }
    if options.secrets:
        spec["envFrom"] = [{"secretRef": {"name": secret}} for secret in options.secrets]
    volumes = [
        {"name": "workdir", "persistentVolumeClaim": {"claimName": options.claim}},
        {"name": "recipe", "configMap": {"name": f"{name}-recipe"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},  # counts towards the pod's memory
    ]
    return {"spec": {"containers": [spec], "volumes": volumes}}


def notes(recipe: Recipe, options: KubernetesOptions) -> list[str]:
    """Comments for the person who applies the manifest."""
    name = remote.label(recipe.name)
    lines = [
        f"Runs the recipe '{recipe.name}' on Kubernetes, with KubeRay 1.6 or later and its operator installed.",
        f"  apply:    kubectl apply -f FILE      (the claim {options.claim} must exist, ReadWriteMany)",
        f"  follow:   kubectl logs -f -l job-name={name}",
        f"  stop:     kubectl delete rayjob {name}",
        f"  continue: kubectl delete rayjob {name}, then apply again; the workdir on the claim is the state of the run",
    ]
    if name != recipe.name:
        lines.append(f"Kubernetes does not accept the name '{recipe.name}', so the job is called {name}.")
    if secrets := [*options.secrets, *([options.token_secret] if options.token_secret else [])]:
        lines.append(f"Secrets that must exist in the namespace: {', '.join(secrets)}.")
    if not options.token_secret:
        lines.append("KubeRay makes the token that Ray requires, in a Secret with the name of the cluster.")
    lines += [
        f"The workers of {stage} need '{resource}': add it to `resources` in the rayStartParams of a group that has it."
        for stage, pool in pools(recipe).items()
        for resource in pool.resources
    ]
    return lines


class _Dumper(yaml.SafeDumper):
    """A YAML dumper that keeps the recipe readable: it writes a text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes an object that occurs twice in full both times."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(config: dict[str, Any], job: dict[str, Any], comments: list[str]) -> str:
    """The manifest as YAML: comments, then the ConfigMap and the RayJob."""
    # a name may hold characters that end a line of YAML, or that a terminal obeys
    header = "".join(f"# {printable(' '.join(line.splitlines()))}\n" for line in comments)
    return header + yaml.dump_all(
        [config, job], Dumper=_Dumper, sort_keys=False, explicit_start=True, allow_unicode=True, width=120
    )
