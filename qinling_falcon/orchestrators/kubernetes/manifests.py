"""The objects that make a runtime's pods: a Secret with the runtime's key, and a Deployment of spare pods.

The pods satisfy the Pod Security Standard `restricted`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import Any

from qinling_falcon.orchestrators.base import RuntimeImage
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.worker_secrets import WorkerSecrets
from qinling_falcon.orchestrators.worker_limits import BASE_MEMORY, limits_of
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

_KEY = "key"
# The user of the program; functions run as the same user, because a pod without capabilities has no other one.
_UID = 10_000
_CODE, _TMP, _SHM = "/code", "/tmp", "/dev/shm"
_CHILD_MEMORY = 16 * MIB  # more than a child uses before it runs user code
_TRUSTED = "io.kubernetes.cri-o.TrustedSandbox"


@dataclass(frozen=True, slots=True)
class RuntimeObjects:
    """The objects of one runtime, as JSON.

    Attributes:
        secret: holds the runtime's key.
        deployment: of the spare pods.
        digest: of what both are made from; it is in the annotation `names.TEMPLATE` of the Deployment.
    """

    secret: dict[str, Any]
    deployment: dict[str, Any]
    digest: str


class Manifests:
    """Makes the objects of runtimes.

    Args:
        settings: what pods get and may use.
        secrets: derives the keys of runtimes.
    """

    def __init__(self, settings: Settings, secrets: WorkerSecrets):
        self._settings = settings
        self._secrets = secrets

    def make(self, runtime: RuntimeImage, pod_image: str, spare: int) -> RuntimeObjects:
        """Make the objects of a runtime.

        Args:
            runtime: the runtime.
            pod_image: the image of its pods.
            spare: how many spare pods it has.
        """
        name = names.runtime_name(runtime.runtime_id)
        labels = names.MANAGED_LABELS | {names.RUNTIME: runtime.runtime_id}
        selected = labels | {names.STATE: names.SPARE}
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": labels},
            "data": {_KEY: base64.b64encode(self._secrets.runtime_key(runtime.runtime_id).encode()).decode()},
        }
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "labels": labels},
            "spec": {
                "replicas": spare,
                "selector": {"matchLabels": selected},
                # While pods of a new image do not become ready, those of the image before stay.
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
                "revisionHistoryLimit": 1,
                "template": {
                    "metadata": {
                        "labels": selected
                        | {
                            names.IMAGE_KEY: names.image_key(runtime.image),
                            names.SECRET_KEY: self._secrets.fingerprint,
                        },
                        "annotations": {names.IMAGE: runtime.image, _TRUSTED: str(runtime.trusted).lower()},
                    },
                    "spec": self._pod(name, pod_image, trusted=runtime.trusted),
                },
            },
        }
        text = json.dumps([secret, deployment], sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        deployment["metadata"]["annotations"] = {names.TEMPLATE: digest}  # type: ignore[index]
        return RuntimeObjects(secret, deployment, digest)

    def _pod(self, secret_name: str, image: str, *, trusted: bool) -> dict[str, Any]:
        settings = self._settings
        spec: dict[str, Any] = {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": int(settings.kubernetes_pod_grace_s),
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": _UID,
                "runAsGroup": _UID,
                "fsGroup": _UID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [self._container(secret_name, image)],
            "volumes": [
                {"name": "code", "emptyDir": {"sizeLimit": str(settings.max_unpacked_size)}},
                # In memory, so that the limit of the container bounds it at once.
                {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": str(settings.tmp_size)}},
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(settings.shm_size)}},
            ],
        }
        if settings.kubernetes_pull_secrets:
            spec["imagePullSecrets"] = [{"name": name} for name in settings.kubernetes_pull_secrets.split(",")]
        if settings.kubernetes_runtime_class and not trusted:
            spec["runtimeClassName"] = settings.kubernetes_runtime_class
        return spec

    def _container(self, secret_name: str, image: str) -> dict[str, Any]:
        settings = self._settings
        memory = BASE_MEMORY + _CHILD_MEMORY + settings.max_memory_size + settings.tmp_size + settings.shm_size
        return {
            "name": names.CONTAINER,
            "image": image,
            "imagePullPolicy": settings.kubernetes_pull_policy,
            "env": [
                {"name": "WORKER_KEY", "valueFrom": {"secretKeyRef": {"name": secret_name, "key": _KEY}}},
                {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                {"name": "WORKER_CONFIG", "value": json.dumps(self._config(), sort_keys=True)},
            ],
            # The default path is in /dev. The file is on the node's disk, and functions can write to files in /dev.
            "terminationMessagePath": "/run/termination-log",
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "ports": [{"name": "http", "containerPort": names.WORKER_PORT}],
            # There is no startup probe, because kubelets before 1.21 wait for up to one more period after it. A busy
            # worker that is short of CPU time may answer late.
            "readinessProbe": {
                "httpGet": {"path": "/ping", "port": "http"},
                "periodSeconds": 2,
                "timeoutSeconds": 5,
                "failureThreshold": 6,
            },
            "resources": {
                "requests": {
                    "cpu": f"{settings.kubernetes_request_cpu}m",
                    "memory": str(settings.kubernetes_request_memory),
                },
                "limits": {"cpu": f"{settings.max_cpu}m", "memory": str(memory)},
            },
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [
                {"name": "code", "mountPath": _CODE},
                {"name": "tmp", "mountPath": _TMP},
                {"name": "shm", "mountPath": _SHM},
            ],
        }

    def _config(self) -> dict[str, Any]:
        """The configuration of the program, without its secret."""
        settings = self._settings
        return {
            "code_dir": _CODE,
            "scratch_dirs": [_TMP, _SHM],
            "scratch_size": settings.tmp_size + settings.shm_size,
            # Kubelets before 1.22 do not limit the size of such a volume. They evict its pod.
            "scratch_sizes": {_TMP: settings.tmp_size, _SHM: settings.shm_size},
            "readable": ["/"],
            "child_uid": None,
            "child_gid": None,
            "own_pids": True,
            "shares_uid": True,  # with all other pods of the node
            **limits_of(settings),
        }
