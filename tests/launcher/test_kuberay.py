"""The manifest for KubeRay: its fields, the pods that a recipe needs, and the recipes that are refused."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError

from cluster.errors import InputError
from launcher.kuberay import KubernetesOptions, manifest, notes, to_yaml
from launcher.recipe import Recipe
from launcher.recipe_file import load_recipe, shipped_recipes
from tests.launcher.rayjob_schema import CONFIG_MAP, RAYJOB
from tests.pipeline import listwise

# ray.io_rayjobs.yaml, as KubeRay publishes it
BESIDE = Path(__file__).parents[3] / "shared" / "kuberay" / "ray.io_rayjobs.yaml"
CRD = Path(os.environ.get("LISTWISE_RAYJOB_CRD", BESIDE))
OPTIONS = KubernetesOptions(
    "registry.example/listwise:1", "shared", secrets=("hub-keys",), token_secret="ray-token", gpu_nodes=8
)


def recipe(shipped: str = "cadet", *changes: str) -> Recipe:
    return load_recipe(shipped, ["workdir=/mnt/listwise/run", *changes])


def pods(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    return {name: group["template"]["spec"] for name, group in {"head": cluster["headGroupSpec"], **groups}.items()}


def strict(schema: Any) -> Any:
    """A published schema that refuses unknown fields, as the API server does with strict validation."""
    if isinstance(schema, dict):
        closed = {key: strict(value) for key, value in schema.items()}
        if "properties" in closed and not closed.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
        return closed
    return [strict(item) for item in schema] if isinstance(schema, list) else schema


@pytest.mark.parametrize("shipped", ["cadet", "small-gpu", "laptop"])
@pytest.mark.parametrize(
    "options", [OPTIONS, KubernetesOptions("i", "c", gpu_nodes=8)], ids=["with secrets", "without"]
)
def test_a_manifest_has_the_fields_that_kuberay_knows_and_no_others(shipped: str, options: KubernetesOptions) -> None:
    config, job = manifest(recipe(shipped, "corpus.path=/mnt/listwise/corpus", "evaluation.dataset=null"), options)
    Draft202012Validator(CONFIG_MAP).validate(config)
    Draft202012Validator(RAYJOB).validate(job)


@pytest.mark.parametrize("shipped", ["cadet", "laptop"])
def test_pods_and_the_config_map_survive_a_round_trip_through_the_types_of_kubernetes(shipped: str) -> None:
    """KubeRay's schema takes a pod's template from Kubernetes, whose types lose a field that they do not know."""
    from kubernetes.client import ApiClient

    client = ApiClient()

    def read_back(content: Any, kind: str) -> Any:
        answer = SimpleNamespace(data=json.dumps(content))
        return client.sanitize_for_serialization(client.deserialize(answer, kind))

    config, job = manifest(recipe(shipped, "corpus.path=/mnt/listwise/corpus"), OPTIONS)
    assert read_back(config, "V1ConfigMap") == config
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert read_back(group["template"], "V1PodTemplateSpec") == group["template"]
    misspelt = {"containers": [{"name": "ray", "image": "i", "volumemounts": []}]}
    assert read_back({"spec": misspelt}, "V1PodTemplateSpec")["spec"] != misspelt, "a misspelt field is found"


def published() -> dict[str, Any]:
    """KubeRay's schema of a RayJob, strict, from the file that the environment names, or beside the project."""
    crd = yaml.safe_load(CRD.read_text())
    (v1,) = [version for version in crd["spec"]["versions"] if version["name"] == "v1"]
    return strict(v1["schema"]["openAPIV3Schema"])


@pytest.mark.skipif(not CRD.exists(), reason="NOT TRIED: needs KubeRay's ray.io_rayjobs.yaml; LISTWISE_RAYJOB_CRD=FILE")
def test_the_manifests_of_all_recipes_are_valid_by_the_published_schema() -> None:
    """Required fields, enums, formats and patterns included; and a field that the schema does not know is refused."""
    schema = Draft202012Validator(published(), format_checker=Draft202012Validator.FORMAT_CHECKER)
    for shipped in shipped_recipes():
        for options in (OPTIONS, KubernetesOptions("i", "c", gpu_nodes=8)):
            if shipped == "pydocs":  # reads an installed package, on whatever machine
                given = recipe(shipped)
            else:
                given = recipe(shipped, "corpus.path=/mnt/listwise/corpus", "evaluation.dataset=null")
            _, job = manifest(given, options)
            schema.validate(job)
    cluster = {**job["spec"]["rayClusterSpec"], "authOptions": {"mode": "pigeon"}}
    for wrong in ({"shutdownAfterJobFinished": True}, {"rayClusterSpec": cluster}, {"backoffLimit": "many"}):
        with pytest.raises(ValidationError):
            schema.validate({**job, "spec": {**job["spec"], **wrong}})
    del job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]
    with pytest.raises(ValidationError, match="'template' is a required property"):
        schema.validate(job)


def test_the_command_prints_the_same_two_documents_every_time(tmp_path: Path) -> None:
    words = ["kuberay", "cadet", "--set", "workdir=/mnt/listwise/run", "--set", "name=My Run_1", "--image", "i:1"]
    words += ["--claim", "shared", "--gpu-nodes", "2", "--gpus-per-node", "4", "--secret", "hub-keys"]
    done = listwise(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == listwise(*words, cwd=tmp_path).stdout
    assert "# Kubernetes does not accept the name 'My Run_1', so the job is called my-run-1.\n" in done.stdout
    assert "kubectl apply -f FILE" in done.stdout
    config, job = yaml.safe_load_all(done.stdout)
    assert config["metadata"]["name"] == "my-run-1-recipe"
    assert (job["kind"], job["metadata"]["name"]) == ("RayJob", "my-run-1")
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_that_pods_read_is_the_one_given_and_joins_the_cluster(tmp_path: Path) -> None:
    original = recipe("cadet", "training.learning_rate=3e-4")
    config, job = manifest(original, OPTIONS)
    (tmp_path / "recipe.yaml").write_text(config["data"]["recipe.yaml"])
    read = load_recipe(str(tmp_path / "recipe.yaml"))
    assert read.cluster.address == "auto"
    assert read.model_copy(update={"cluster": original.cluster}) == original
    words = shlex.split(job["spec"]["entrypoint"])
    assert words == ["listwise", "run", "/etc/listwise/recipe.yaml"]
    for pod in pods(job).values():
        mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert volumes[mounts["/etc/listwise"]]["configMap"]["name"] == config["metadata"]["name"]
        assert volumes[mounts["/mnt/listwise"]]["persistentVolumeClaim"]["claimName"] == "shared"
        assert volumes[mounts["/dev/shm"]]["emptyDir"] == {"medium": "Memory"}


def test_the_groups_of_pods_follow_from_the_pools_of_the_recipe() -> None:
    _, job = manifest(
        recipe("cadet", "training.ranks=8"), KubernetesOptions("i", "c", gpu_nodes=2, gpus_per_node=4, cpu_nodes=3)
    )
    groups = {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    sizes = {name: [group[key] for key in ("replicas", "minReplicas", "maxReplicas")] for name, group in groups.items()}
    assert sizes == {"gpu": [2, 2, 2], "cpu": [3, 3, 3]}
    for name, pod in pods(job).items():
        resources = pod["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"].get("nvidia.com/gpu") == ("4" if name == "gpu" else None)
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]
    assert head["rayStartParams"]["num-cpus"] == "0", "no work on the head"
    no_gpus = recipe("laptop", "corpus.path=/mnt/listwise/corpus", "evaluation.dataset=null")
    assert list(pods(manifest(no_gpus, OPTIONS)[1])) == ["head", "cpu"]


def test_secrets_are_named_and_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-token-that-nobody-may-see")
    config, job = manifest(recipe(), OPTIONS)
    assert "a-token-that-nobody-may-see" not in yaml.safe_dump([config, job])
    for pod in pods(job).values():
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "hub-keys"}}]
    assert job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    assert job["spec"]["backoffLimit"] == 2, "three attempts"


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (["workdir=runs/mine"], {}, r"workdir 'runs/mine' is not on the volume.*--set workdir=/mnt/listwise/cadet"),
        (["workdir=/data/run"], {}, r"workdir '/data/run' is not on the volume"),
        (["workdir=/mnt/listwise/../run"], {}, "is not on the volume"),
        (["workdir=s3://bucket/run"], {}, "is not on the volume"),
        (["corpus.path=my-corpus"], {}, r"corpus.path 'my-corpus'.*--set corpus.path=/mnt/listwise/my-corpus"),
        ([], {"claim": "My_Claim"}, "--claim My_Claim: Kubernetes does not accept this name"),
        ([], {"secrets": ("a b",)}, "--secret a b"),
        ([], {"mount": "relative"}, "--mount relative: expected an absolute path"),
        (["generation.pool.gpus=4"], {"gpus_per_node": 2}, "stage queries: each worker wants 4 GPUs"),
        (["generation.pool.cpus=64"], {}, "stage queries: each worker wants 64 CPU cores, and --cpus-per-node is 8"),
        (["training.ranks=8"], {"gpu_nodes": 3, "gpus_per_node": 2}, "training: 8 ranks of 1 GPUs each.* hold 6"),
    ],
)  # fmt: skip
def test_a_recipe_that_could_not_run_is_refused_with_the_remedy(
    changes: list[str], options: dict[str, Any], words: str
) -> None:
    given = {"image": "i", "claim": "c", "gpu_nodes": 8} | options
    with pytest.raises(InputError, match=words):
        manifest(recipe("cadet", *changes), KubernetesOptions(**given))


@pytest.mark.parametrize("end", ["\n", "\r", "\x85", "\u2028", "\u2029", "\x0b", "\x1b[2J"])
def test_a_name_cannot_leave_its_comment(end: str) -> None:
    named = recipe("laptop", "corpus.path=/mnt/listwise/c", "evaluation.dataset=null")
    named = named.model_copy(update={"name": f"a{end}kind: Evil"})
    text = to_yaml(*manifest(named, OPTIONS), notes(named, OPTIONS))
    assert [one["kind"] for one in yaml.safe_load_all(text)] == ["ConfigMap", "RayJob"]
    assert not [line for line in text.splitlines() if line.startswith("kind: Evil")]
    assert "\x1b" not in text.partition("---")[0]
