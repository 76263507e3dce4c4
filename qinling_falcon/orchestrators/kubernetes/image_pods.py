"""Makes the pod that runs one execution of a function from an image, and parses its state.

The pod satisfies the Pod Security Standard `restricted`. Its program runs as an ordinary user, also if the image names
root, and can write only to `/tmp`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qinling_falcon.orchestrators.image_runs import EndKind, ImageRun, longest_run_s
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.pods import FINAL, STARTING, Trouble
from qinling_falcon.setting_fields import MIB
from qinling_falcon.settings import Settings

_CONTAINER = "function"
_UID = 10_000
_TMP = "/tmp"
# More than a node keeps of a container's log before it deletes the oldest part.
_LOG_SPACE = 100 * MIB
_TRUSTED = "io.kubernetes.cri-o.TrustedSandbox"
# The container could not be started, although its image is there.
_NOT_STARTED = frozenset({"StartError", "ContainerCannotRun"})


@dataclass(frozen=True, slots=True)
class PodEnd:
    """How the container of a pod has ended.

    Attributes:
        kind: how; None: the cluster has ended the pod for a reason of its own, such as a shutdown of the node.
        exit_status: of its program; None: unknown.
        ran_s: how long it ran. The cluster's times have whole seconds.
        reason: what the cluster tells.
    """

    kind: EndKind | None
    exit_status: int | None
    ran_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class ImagePod:
    """The fields of a pod that the process uses that made it.

    Attributes:
        name: its name.
        uid: its uid.
        worker_id: the worker for which it was made.
        is_being_deleted: whether it is being deleted.
        has_started: whether its container runs or has run.
        is_unschedulable: whether no node has room for it now.
        trouble: why its container does not start; None: nothing is known to be wrong.
        end: how its container has ended; None: it has not.
    """

    name: str
    uid: str
    worker_id: str
    is_being_deleted: bool
    has_started: bool
    is_unschedulable: bool
    trouble: Trouble | None
    end: PodEnd | None


def make_image_pod(run: ImageRun, settings: Settings) -> dict[str, Any]:
    """The pod for an execution, as JSON. The cluster ends it by itself if nothing else does."""
    # The cluster replaces `$(NAME)` in arguments by a variable of the container's environment, and `$$` by `$`.
    arguments = [argument.replace("$", "$$") for argument in run.arguments]
    resources = {"cpu": f"{run.cpu}m", "memory": str(run.memory_size)}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": math.ceil(longest_run_s(settings, run.timeout_s)),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # With 0, the API server would free the pod's name before the container has ended, and the next attempt could
        # start too early.
        "terminationGracePeriodSeconds": max(1, int(settings.kubernetes_pod_grace_s)),
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _UID,
            "runAsGroup": _UID,
            "fsGroup": _UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": _CONTAINER,
                "image": run.image,
                "imagePullPolicy": settings.kubernetes_pull_policy,
                **({"args": arguments} if arguments else {}),
                "resources": {
                    "requests": resources,
                    "limits": resources | {"ephemeral-storage": str(settings.tmp_size + _LOG_SPACE)},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [{"name": "tmp", "mountPath": _TMP}],
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": str(settings.tmp_size)}}],
    }
    if settings.kubernetes_function_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.kubernetes_function_pull_secrets.split(",")]
    if settings.kubernetes_runtime_class:
        spec["runtimeClassName"] = settings.kubernetes_runtime_class
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": names.execution_pod(run.execution_id),
            "labels": names.MANAGED_LABELS
            | {
                names.STATE: names.SINGLE_USE,
                names.WORKER: run.worker_id,
                names.HOLDER_KEY: names.holder_key(run.lease.holder),
                names.FUNCTION: run.function_id,
                names.EXECUTION: run.execution_id,
            },
            "annotations": {
                names.HOLDER: run.lease.holder,
                names.LEASE: run.lease.lease,
                names.IMAGE: run.image,
                _TRUSTED: "false",
            },
        },
        "spec": spec,
    }


def read_image_pod(given: Mapping[str, Any]) -> ImagePod:
    """Parse the JSON of a pod."""
    metadata, status = given["metadata"], given.get("status", {})
    containers = status.get("containerStatuses") or [{}]
    state: Mapping[str, Any] = containers[0].get("state", {})
    terminated = state.get("terminated")
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    return ImagePod(
        name=metadata["name"],
        uid=metadata["uid"],
        worker_id=metadata.get("labels", {}).get(names.WORKER, ""),
        is_being_deleted="deletionTimestamp" in metadata,
        has_started="running" in state or (terminated is not None and terminated.get("reason") not in _NOT_STARTED),
        is_unschedulable=conditions.get("PodScheduled", {}).get("status") == "False",
        trouble=_trouble(state.get("waiting")),
        end=_end(status, terminated),
    )


def _trouble(waiting: Mapping[str, Any] | None) -> Trouble | None:
    if waiting is None or waiting.get("reason") in (None, *STARTING):
        return None
    reason, message = waiting["reason"], waiting.get("message", "")
    return Trouble(f"{reason}: {message}" if message else reason, is_final=reason in FINAL)


def _end(status: Mapping[str, Any], terminated: Mapping[str, Any] | None) -> PodEnd | None:
    """How the container has ended.

    If the cluster has ended the whole pod, only the pod's reason tells why. The container's shows a signal.
    """
    if status.get("phase") == "Failed" and status.get("reason"):
        told = f"{status['reason']}: {status.get('message', '')}"
        match status["reason"]:
            case "DeadlineExceeded":
                return PodEnd(EndKind.TIMED_OUT, None, _ran_s(terminated), told)
            case "Evicted" if "limit" in status.get("message", ""):  # not because the node is short of something
                return PodEnd(EndKind.OUT_OF_DISK, None, _ran_s(terminated), told)
            case _:
                return PodEnd(None, None, _ran_s(terminated), told)
    if terminated is None:
        return None
    exit_status, reason = terminated.get("exitCode"), terminated.get("reason", "")
    message = (terminated.get("message") or "").strip()
    if reason in _NOT_STARTED:
        return PodEnd(EndKind.UNUSABLE, exit_status, 0.0, f"{reason}: {message}" if message else reason)
    if reason == "OOMKilled":
        return PodEnd(EndKind.OUT_OF_MEMORY, exit_status, _ran_s(terminated), reason)
    kind = EndKind.SUCCEEDED if exit_status == 0 else EndKind.FAILED
    return PodEnd(kind, exit_status, _ran_s(terminated), reason)


def _ran_s(terminated: Mapping[str, Any] | None) -> float:
    if terminated is None:
        return 0.0
    started, finished = terminated.get("startedAt"), terminated.get("finishedAt")
    if not started or not finished:
        return 0.0
    return max(0.0, _time(finished) - _time(started))


def _time(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()
