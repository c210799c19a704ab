"""Names and types of the fields that our RayJob uses; any other field is a mistake.

Facts from KubeRay 1.6's API reference (ray.io/v1: RayJobSpec, RayClusterSpec, HeadGroupSpec, WorkerGroupSpec,
AuthOptions) and Kubernetes' core/v1 (PodSpec, Container, Volume). They agree with the Go types from which
the published schema, ray.io_rayjobs.yaml, is generated (ray-operator/apis/ray/v1 of ray-project/kuberay), and with the
first part of that schema.
"""

from __future__ import annotations

from typing import Any

LABEL = {"type": "string", "pattern": "^[a-z]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}


def fields(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": required | optional, "required": list(required), "additionalProperties": False,
    }  # fmt: skip


def many(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]|[KMGTPE]i)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
METADATA = fields({"name": LABEL, "labels": STRINGS})
VOLUME = {
    "oneOf": [
        fields({"name": LABEL, "persistentVolumeClaim": fields({"claimName": TEXT})}),
        fields({"name": LABEL, "configMap": fields({"name": TEXT})}),
        fields({"name": LABEL, "emptyDir": fields({"medium": {"const": "Memory"}})}),
    ]
}
CONTAINER = fields(
    {
        "name": LABEL,
        "image": TEXT,
        "resources": fields({"requests": QUANTITIES, "limits": QUANTITIES}),
        "volumeMounts": many(fields({"name": LABEL, "mountPath": TEXT}, readOnly={"type": "boolean"})),
    },
    envFrom=many(fields({"secretRef": fields({"name": TEXT})})),
)
POD = fields({"spec": fields({"containers": many(CONTAINER), "volumes": many(VOLUME)})})
GROUP = fields(
    {
        "groupName": LABEL, "replicas": COUNT, "minReplicas": COUNT, "maxReplicas": COUNT, "rayStartParams": STRINGS,
        "template": POD,
    }
)  # fmt: skip
CLUSTER = fields(
    {
        "rayVersion": TEXT,
        "authOptions": fields({"mode": {"enum": ["token"]}}, secretName=TEXT),
        "headGroupSpec": fields({"rayStartParams": STRINGS, "template": POD}),
        "workerGroupSpecs": many(GROUP),
    }
)
RAYJOB = fields(
    {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": fields({"name": LABEL | {"maxLength": 47}, "labels": STRINGS}),
        "spec": fields(
            {
                "entrypoint": TEXT, "shutdownAfterJobFinishes": {"type": "boolean"}, "ttlSecondsAfterFinished": COUNT,
                "backoffLimit": COUNT, "rayClusterSpec": CLUSTER,
            }
        ),
    }
)  # fmt: skip
CONFIG_MAP = fields(
    {"apiVersion": {"const": "v1"}, "kind": {"const": "ConfigMap"}, "metadata": METADATA, "data": STRINGS}
)
