"""Takes spare pods out of the Deployments of their runtimes, and waits for one where there is none.

While starts wait, the Deployment gets one more pod for each of them. So many starts at once wait about as long as one.

A start that finds no room in the cluster ends after seconds, with `NoRoom`, because the image is not at fault. For some
time, the present number of workers is then the most that the pool may have. So it evicts idle workers, whose pods make
room.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter

from qinling_falcon.orchestrators.base import NoRoom, StartFailed
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi
from qinling_falcon.orchestrators.kubernetes.changes import Changes
from qinling_falcon.orchestrators.kubernetes.leader import LeaderLease
from qinling_falcon.orchestrators.kubernetes.pod_events import PodEvents
from qinling_falcon.orchestrators.kubernetes.pods import Pod, Trouble
from qinling_falcon.orchestrators.kubernetes.runtime_pods import RuntimePods
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.orchestrators.kubernetes.worker_addresses import WorkerAddresses
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_LOOK_AGAIN_S = 1.0
# Trouble that may pass by itself, such as a registry that does not answer, is waited for so long.
_PATIENCE_S = 20.0
# A start without room waits so long, because another pod may just be ending.
_NO_ROOM_FOR_S = 3.0
# So long after such a start, the pool makes room, unless there is some before.
_MAKE_ROOM_FOR_S = 30.0


class SparePods:
    """The spare pods of all runtimes.

    Args:
        api: the API server.
        settings: the namespace, and how long a start waits.
        pods: all pods of the installation.
        deployments: the Deployments of the runtimes.
        addresses: makes the addresses of workers.
        lease: lets this manager change the cluster.
        changes: is notified of changes of pods and Deployments.
        events: knows the pods that the cluster shows as spare, although they were taken.

    Attributes:
        starting: the workers for which a pod is being taken.
    """

    def __init__(
        self,
        api: KubernetesApi,
        settings: Settings,
        pods: Watch[Pod],
        deployments: RuntimePods,
        addresses: WorkerAddresses,
        lease: LeaderLease,
        changes: Changes,
        events: PodEvents,
    ):
        self.starting: set[str] = set()
        self._api = api
        self._path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/pods"
        self._timeout_s = settings.kubernetes_start_timeout_s
        self._pods = pods
        self._deployments = deployments
        self._addresses = addresses
        self._lease = lease
        self._changes = changes
        self._events = events
        # Names of pods that a start is taking, and how many starts of each runtime wait for a pod.
        self._being_taken: set[str] = set()
        self._waiting: Counter[str] = Counter()
        # By runtime, until when the pool makes room for its pods.
        self._make_room_until: dict[str, float] = {}

    def take(self, worker_id: str, image: str, runtime_id: str) -> Pod:
        """Make a spare pod of a runtime the pod of a worker.

        Raises:
            StartFailed: no pod became ready in time.
            ApiAway: the API server is away, or another manager holds the Lease.
            NoRoom: the cluster has no room for a pod.
        """
        self.starting.add(worker_id)
        try:
            pod = self._try_to_take(worker_id, image, runtime_id)
            if pod is not None:
                return pod
            self._waiting[runtime_id] += 1
            try:
                return self._wait_and_take(worker_id, image, runtime_id)
            finally:
                self._waiting[runtime_id] -= 1
        finally:
            self.starting.discard(worker_id)

    def has_no_room(self) -> bool:
        """Whether a start has found no room for a pod in the cluster, and there is none yet."""
        now = time.monotonic()
        for runtime_id, until in list(self._make_room_until.items()):
            if now >= until or not self._lacks_room(runtime_id):
                del self._make_room_until[runtime_id]
            else:
                with contextlib.suppress(ApiAway):
                    self._deployments.nudge(runtime_id)
        return bool(self._make_room_until)

    def _wait_and_take(self, worker_id: str, image: str, runtime_id: str) -> Pod:
        deadline = time.monotonic() + self._timeout_s
        trouble_since: float | None = None
        while True:
            self._deployments.grow(runtime_id, self._waiting[runtime_id])
            self._deployments.nudge(runtime_id)
            pod = self._try_to_take(worker_id, image, runtime_id)
            if pod is not None:
                return pod
            if self._api.away_since is not None:
                raise ApiAway("the API server is away, so no spare pod can be taken")
            trouble = self._trouble(image, runtime_id)
            now = time.monotonic()
            trouble_since = trouble_since or now if trouble else None
            if trouble and trouble_since:
                if trouble.lacks_room and now >= trouble_since + _NO_ROOM_FOR_S:
                    self._make_room_until[runtime_id] = now + _MAKE_ROOM_FOR_S
                    raise NoRoom(f"the cluster has no room: {trouble.reason}")
                if trouble.is_final or now >= trouble_since + _PATIENCE_S:
                    raise StartFailed(trouble.reason)
            if now >= deadline:
                why = f": {trouble.reason}" if trouble else ""
                raise StartFailed(f"no pod became ready within {self._timeout_s:g} s{why}")
            self._changes.wait(min(_LOOK_AGAIN_S, deadline - now))

    def _try_to_take(self, worker_id: str, image: str, runtime_id: str) -> Pod | None:
        while (pod := self._find(image, runtime_id)) is not None:
            taken = self._take(pod, worker_id)
            if taken is not None:
                return taken
        return None

    def _find(self, image: str, runtime_id: str) -> Pod | None:
        """The oldest spare pod that no other start is taking.

        While there are more ready pods than the Deployment wants, none is taken, because the controller is about to
        delete some of them.
        """
        ready = [pod for pod in self._spare(runtime_id) if pod.serves]
        if len(ready) > self._deployments.wanted(runtime_id):
            return None
        key = names.image_key(image)
        usable = [
            pod
            for pod in ready
            if pod.image_key == key and pod.name not in self._being_taken and not self._events.was_returned(pod)
        ]
        return min(usable, key=lambda pod: (pod.created, pod.name), default=None)

    def _take(self, pod: Pod, worker_id: str) -> Pod | None:
        """Take a spare pod out of its Deployment. None: the API server refuses, as if the pod was taken or is gone.

        If this process dies just after the request, `list` shows the worker, and the next manager adopts it.
        """
        self._lease.require()
        self._being_taken.add(pod.name)
        label = "/metadata/labels/qinling-falcon~1"
        try:
            self._addresses.make(pod, worker_id)
            changed = self._api.change(
                f"{self._path}/{pod.name}",
                [
                    {"op": "test", "path": "/metadata/uid", "value": pod.uid},
                    {"op": "test", "path": f"{label}state", "value": names.SPARE},
                    {"op": "replace", "path": f"{label}state", "value": names.TAKEN},
                    {"op": "add", "path": f"{label}worker", "value": worker_id},
                    # In the same request: a pod that still has its owner is deleted together with its ReplicaSet.
                    {"op": "remove", "path": "/metadata/ownerReferences"},
                ],
            )
        except ApiError as error:
            logger.info("a spare pod could not be taken", extra={"pod": pod.name, "reason": str(error)})
            self._pods.forget(pod.name)
            self._addresses.discard(worker_id)
            return None
        finally:
            self._being_taken.discard(pod.name)
        return self._pods.put(changed)

    def _spare(self, runtime_id: str) -> list[Pod]:
        pods = self._pods.objects.values()
        return [pod for pod in pods if pod.state == names.SPARE and pod.runtime_id == runtime_id]

    def _trouble(self, image: str, runtime_id: str) -> Trouble | None:
        """Why the runtime gets no spare pod of an image; None: nothing is known to be wrong."""
        key = names.image_key(image)
        for pod in self._spare(runtime_id):
            if pod.image_key == key and pod.trouble:
                return pod.trouble
        return self._deployments.trouble(runtime_id)

    def _lacks_room(self, runtime_id: str) -> bool:
        troubles = [self._deployments.trouble(runtime_id), *(pod.trouble for pod in self._spare(runtime_id))]
        return any(trouble is not None and trouble.lacks_room for trouble in troubles)
