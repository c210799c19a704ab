"""The manifest that runs a recipe on Kubernetes: a RayJob for KubeRay, and the recipe as a ConfigMap.

Pods share the workdir through one PersistentVolumeClaim, so an attempt that fails is continued by the next. Secrets are
named, never held. Groups have a fixed size: a stage takes the workers that the cluster can place when it begins.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from importlib import metadata
from pathlib import PurePosixPath
from typing import Any

import yaml

from cluster.errors import InputError
from cluster.settings import PoolSettings
from launcher import remote
from launcher.placement import pools
from launcher.recipe import Recipe

RECIPE_FOLDER = "/etc/listwise"
HEAD = {"cpu": "4", "memory": "16Gi"}  # the driver lives there, and evaluates
KEEP_S = 600  # so long a cluster stays after its job, for a look at it
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Places:
    """What a cluster has to offer, and what it is called.

    Args:
        image: container image with Ray and Listwise, the same for all pods.
        claim: PersistentVolumeClaim that every pod can write to (ReadWriteMany).
        mount: where it is mounted.
        gpus_per_node: None: what the largest worker wants.
        memory: of each pod, as Kubernetes writes it.
        secrets: names of Secrets whose keys become environment variables.
        token_secret: Secret that holds Ray's token as `auth_token`; None: KubeRay makes one.
        attempts: how often a run that fails is started.
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


def print_manifest(recipe: Recipe, places: Places) -> None:
    """Prints the manifest.

    Raises:
        InputError: see `manifest`.
    """
    print(to_yaml(*manifest(recipe, places), notes(recipe, places)), end="")


def manifest(recipe: Recipe, places: Places) -> tuple[dict[str, Any], dict[str, Any]]:
    """The RayJob, and the ConfigMap that holds its recipe.

    Raises:
        InputError: a workdir outside of the volume, an input that pods do not have, a name that Kubernetes does not
            take, or a worker that fits on none of the nodes.
    """
    _check_paths(recipe, places)
    for option, names in (
        ("--claim", [places.claim]), ("--secret", places.secrets), ("--token-secret", [places.token_secret]),
    ):  # fmt: skip
        for name in names:
            if name is not None and not remote.is_label(name):
                raise InputError(
                    f"{option} {name}: Kubernetes has no such names; expected the likes of my-claim (RFC 1123)"
                )
    name = remote.label(recipe.name)
    there = recipe.model_copy(update={"cluster": recipe.cluster.model_copy(update={"address": "auto"})})
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": f"{name}-recipe", "labels": {"app.kubernetes.io/name": "listwise"}},
        "data": {"recipe.yaml": there.to_yaml()},
    }
    job = {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "listwise"}},
        "spec": {
            "entrypoint": shlex.join(["listwise", "run", f"{RECIPE_FOLDER}/recipe.yaml"]),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEEP_S,
            "backoffLimit": places.attempts - 1,
            "rayClusterSpec": _cluster(name, recipe, places),
        },
    }
    return config, job


def _check_paths(recipe: Recipe, places: Places) -> None:
    mount = PurePosixPath(places.mount)
    if not mount.is_absolute() or mount == PurePosixPath("/"):
        raise InputError(f"--mount {places.mount}: expected an absolute path of its own, such as /mnt/listwise")
    workdir = PurePosixPath(recipe.workdir)
    if "://" in recipe.workdir or ".." in workdir.parts or mount not in (workdir, *workdir.parents):
        raise InputError(
            f"workdir '{recipe.workdir}' is not on the volume that all pods share, mounted at {mount}; for example "
            f"--set workdir={mount}/{remote.label(recipe.name)}"
        )
    for field, path in remote.relative_inputs(recipe).items():
        raise InputError(
            f"{field} '{path}' is not absolute, and pods have nothing there. Put it on the volume and name its path "
            f"there, for example --set {field}={mount}/{PurePosixPath(path).name}"
        )


def _cluster(name: str, recipe: Recipe, places: Places) -> dict[str, Any]:
    auth = {"mode": "token"} | ({"secretName": places.token_secret} if places.token_secret else {})
    head = {
        "rayStartParams": {"num-cpus": "0", "num-gpus": "0", "dashboard-host": "0.0.0.0"},
        "template": _pod("ray-head", name, places, HEAD),
    }
    return {
        "rayVersion": metadata.version("ray"),
        "authOptions": auth,
        "headGroupSpec": head,
        "workerGroupSpecs": _groups(name, recipe, places),
    }


def _groups(name: str, recipe: Recipe, places: Places) -> list[dict[str, Any]]:
    """GPU pods where a pool wants GPUs, and pods without for the rest."""
    wanted = pools(recipe)
    on_gpus = {stage: pool for stage, pool in wanted.items() if pool.gpus}
    on_cpus = {stage: pool for stage, pool in wanted.items() if not pool.gpus}
    has = {"cpu": str(places.cpus_per_node), "memory": places.memory}
    gpus = places.gpus_per_node or max((math.ceil(pool.gpus) for pool in on_gpus.values()), default=0)
    gpu_nodes = places.gpu_nodes if on_gpus else 0
    if gpu_nodes + places.cpu_nodes == 0:
        raise InputError("--cpu-nodes 0: the recipe wants no GPUs, so nothing would be left to work on")
    _check_fit(on_gpus, places.cpus_per_node, gpus)
    _check_fit(on_cpus, places.cpus_per_node, 0)
    _check_ranks(wanted["training"], places, gpu_nodes, gpus)
    groups = []
    if gpu_nodes:
        groups.append(_group("gpu", gpu_nodes, _pod("ray-worker", name, places, has | {GPU: str(gpus)})))
    if places.cpu_nodes:
        groups.append(_group("cpu", places.cpu_nodes, _pod("ray-worker", name, places, has)))
    return groups


def _check_fit(wanted: dict[str, PoolSettings], cpus: int, gpus: int) -> None:
    for stage, pool in wanted.items():
        if pool.gpus > gpus:
            raise InputError(f"stage {stage}: each worker wants {pool.gpus:g} GPUs, and --gpus-per-node is {gpus}")
        if pool.cpus > cpus:
            raise InputError(f"stage {stage}: each worker wants {pool.cpus:g} CPU cores, and --cpus-per-node is {cpus}")


def _check_ranks(training: PoolSettings, places: Places, gpu_nodes: int, gpus: int) -> None:
    """Ranks work at once or not at all, so all of them need a place; other pools make do with what there is."""
    cpus = int(places.cpus_per_node / training.cpus) if training.cpus else training.workers or 1
    if training.gpus:
        held = gpu_nodes * min(int(gpus / training.gpus), cpus)
        what, more = f"{training.gpus:g} GPUs", "--gpu-nodes or --gpus-per-node"
    else:
        held = (gpu_nodes + places.cpu_nodes) * cpus
        what, more = f"{training.cpus:g} CPU cores", "--cpu-nodes or --cpus-per-node"
    if (training.workers or 1) > held:
        raise InputError(
            f"training: {training.workers} ranks of {what} each, and the pods hold {held} of them; raise {more}, or "
            "lower training.ranks"
        )


def _group(name: str, nodes: int, pod: dict[str, Any]) -> dict[str, Any]:
    size = {"replicas": nodes, "minReplicas": nodes, "maxReplicas": nodes}
    return {"groupName": name, **size, "rayStartParams": {}, "template": pod}


def _pod(container: str, name: str, places: Places, has: dict[str, str]) -> dict[str, Any]:
    """Limits equal requests, so that a pod has what it was promised."""
    mounts = {"workdir": places.mount, "recipe": RECIPE_FOLDER, "shm": "/dev/shm"}
    spec: dict[str, Any] = {
        "name": container,
        "image": places.image,
        "resources": {"requests": dict(has), "limits": dict(has)},
        "volumeMounts": [
            {"name": volume, "mountPath": path} | ({"readOnly": True} if volume == "recipe" else {})
            for volume, path in mounts.items()
        ],
    }
    if places.secrets:
        spec["envFrom"] = [{"secretRef": {"name": secret}} for secret in places.secrets]
    volumes = [
        {"name": "workdir", "persistentVolumeClaim": {"claimName": places.claim}},
        {"name": "recipe", "configMap": {"name": f"{name}-recipe"}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},  # counts towards the pod's memory
    ]
    return {"spec": {"containers": [spec], "volumes": volumes}}


def notes(recipe: Recipe, places: Places) -> list[str]:
    """What a person has to know before applying the manifest."""
    name = remote.label(recipe.name)
    lines = [
        f"Runs the recipe '{recipe.name}' on Kubernetes, with KubeRay 1.6 or later and its operator installed.",
        f"  apply:    kubectl apply -f FILE      (the claim {places.claim} must exist, ReadWriteMany)",
        f"  follow:   kubectl logs -f -l job-name={name}",
        f"  stop:     kubectl delete rayjob {name}",
        f"  continue: kubectl delete rayjob {name}, then apply again; the workdir on the claim is the state of the run",
    ]
    if name != recipe.name:
        lines.append(f"Kubernetes does not take the name '{recipe.name}', so the job is called {name}.")
    if secrets := [*places.secrets, *([places.token_secret] if places.token_secret else [])]:
        lines.append(f"Secrets that must exist in the namespace: {', '.join(secrets)}.")
    if not places.token_secret:
        lines.append("KubeRay makes the token that Ray asks for, in a Secret named after the cluster.")
    lines += [
        f"The workers of {stage} want '{resource}': add it to `resources` in the rayStartParams of a group that has it."
        for stage, pool in pools(recipe).items()
        for resource in pool.resources
    ]
    return lines


class _Dumper(yaml.SafeDumper):
    """Keeps the recipe readable: text of several lines as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        """Writes what occurs twice twice."""
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(config: dict[str, Any], job: dict[str, Any], comments: list[str]) -> str:
    """Both documents, with comments above."""
    above = "".join(f"# {line.replace(chr(10), ' ')}\n" for line in comments)
    return above + yaml.dump_all(
        [config, job], Dumper=_Dumper, sort_keys=False, explicit_start=True, allow_unicode=True, width=120
    )
