"""The fields of a pod that this service uses, and why a pod does not serve."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qinling_falcon.orchestrators.base import SingleUse
from qinling_falcon.orchestrators.kubernetes import names

# The container can't start before the image or the configuration is changed.
FINAL = frozenset({"ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError", "ImageInspectError"})
STARTING = frozenset({"ContainerCreating", "PodInitializing"})


# A container that was restarted so often, and is not ready now, is not waited for any more.
_CRASHES = 2


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a pod does not serve.

    Attributes:
        reason: for the operator and the runtime's `status_reason`.
        is_final: whether it can't pass by itself.
        lacks_room: whether no node has room for it.
    """

    reason: str
    is_final: bool = False
    lacks_room: bool = False


@dataclass(frozen=True, slots=True)
class Pod:
    """The fields of a pod that the pool manager uses.

    Attributes:
        name: its name.
        uid: its uid.
        runtime_id: its runtime.
        state: `names.SPARE`, `names.TAKEN` or `names.SINGLE_USE`; empty: the pod is none of this service's.
        worker_id: the worker that was made of it; empty: none.
        single_use: the lease for which it was made; None: it runs any number of executions.
        image_key: `names.image_key` of its image.
        image: the runtime's image.
        fingerprint: of the key of `SECRET_KEYS` from which its secret is made.
        ip: its IP address; empty: none yet.
        host_ip: the IP address of its node; empty: it has none yet.
        phase: its phase.
        is_ready: whether it is ready for calls.
        is_being_deleted: whether it is being deleted.
        has_stopped: whether it is being deleted, and all that ran in it has ended. Its object may stay for seconds.
        container_exited: whether its container has ended, also if the pod is not being deleted.
        ends_by: when its node ends the container in any case, in seconds since 1970; None: never.
        restarts: how often its container was restarted.
        created: when it was made, in seconds since 1970.
        trouble: why it does not serve; None: it serves, or is starting.
    """

    name: str
    uid: str
    runtime_id: str
    state: str
    worker_id: str
    single_use: SingleUse | None
    image_key: str
    image: str
    fingerprint: str
    ip: str
    host_ip: str
    phase: str
    is_ready: bool
    is_being_deleted: bool
    has_stopped: bool
    container_exited: bool
    ends_by: float | None
    restarts: int
    created: float
    trouble: Trouble | None

    @property
    def serves(self) -> bool:
        """Whether it can be called."""
        return self.is_ready and not self.is_being_deleted and self.phase == "Running" and self.ip != ""


def read_pod(given: Mapping[str, Any]) -> Pod:
    """Parse the JSON of a pod."""
    metadata, status = given["metadata"], given.get("status", {})
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    containers = status.get("containerStatuses", ())
    is_being_deleted = "deletionTimestamp" in metadata
    # A container that has ended may be shown as waiting, although it does not start again.
    runs = not containers or any("running" in container.get("state", {}) for container in containers)
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        runtime_id=labels.get(names.RUNTIME, ""),
        state=labels.get(names.STATE, ""),
        worker_id=labels.get(names.WORKER, ""),
        single_use=(
            SingleUse(annotations.get(names.HOLDER, ""), annotations.get(names.LEASE, ""))
            if labels.get(names.STATE) == names.SINGLE_USE
            else None
        ),
        image_key=labels.get(names.IMAGE_KEY, ""),
        image=annotations.get(names.IMAGE, ""),
        fingerprint=labels.get(names.SECRET_KEY, ""),
        ip=status.get("podIP", ""),
        host_ip=status.get("hostIP", ""),
        phase=status.get("phase", ""),
        is_ready=conditions.get("Ready", {}).get("status") == "True",
        is_being_deleted=is_being_deleted,
        has_stopped=is_being_deleted and not runs,
        container_exited=bool(containers) and all("terminated" in one.get("state", {}) for one in containers),
        ends_by=_ends_by(given),
        restarts=sum(container.get("restartCount", 0) for container in containers),
        created=_time(metadata["creationTimestamp"]),
        trouble=_trouble(status, conditions, containers),
    )


def _ends_by(given: Mapping[str, Any]) -> float | None:
    longest_s = given.get("spec", {}).get("activeDeadlineSeconds")
    if longest_s is None:
        return None
    # Its node has known the pod since `startTime`.
    return _time(given.get("status", {}).get("startTime") or given["metadata"]["creationTimestamp"]) + float(longest_s)


def _time(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _trouble(status: Mapping[str, Any], conditions: Mapping[str, Any], containers: Any) -> Trouble | None:
    if status.get("phase") in ("Failed", "Succeeded"):
        reason = status.get("reason") or status["phase"]
        detail = status.get("message") or _ending(containers) or "the pod has ended"
        return Trouble(f"{reason}: {detail}", is_final=True)
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        reason = f"{scheduled.get('reason', 'Unschedulable')}: {scheduled.get('message', '')}"
        return Trouble(reason, lacks_room=True)
    for container in containers:
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in STARTING:
            reason = waiting.get("reason", "Waiting")
            details = [waiting.get("message", ""), _ending([container])]
            text = "; ".join(detail for detail in details if detail)
            return Trouble(f"{reason}: {text}" if text else reason, is_final=reason in FINAL or _crashes(container))
        if _crashes(container):
            return Trouble(f"CrashLoopBackOff: {_ending([container])}", is_final=True)
    return None


def _crashes(container: Mapping[str, Any]) -> bool:
    """Whether a container has ended by itself again and again, and is not ready now. It may run at the moment."""
    return container.get("restartCount", 0) >= _CRASHES and not container.get("ready") and bool(_ending([container]))


def _ending(containers: Any) -> str:
    """How a container has last ended; empty: it has not."""
    for container in containers:
        for state in (container.get("state", {}), container.get("lastState", {})):
            ended = state.get("terminated")
            if ended:
                message = (ended.get("message") or "").strip()
                text = f"{ended.get('reason', 'Ended')}, exit status {ended.get('exitCode')}"
                return f"{text}: {message[-300:]}" if message else text
    return ""
