"""Workers as pods of a Kubernetes cluster.

Each runtime has a Deployment of spare pods (see `runtime_pods.py`). A start takes one of them out by its labels, and
the pod is a worker of the pool from then on. No controller owns it any more, so none deletes a pod that may run a call.
What the cluster tells of the pods (labels, uid, addresses) is all that a manager needs to know of them: a new manager,
or one whose Redis was emptied, finds its workers by `list`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import gevent

from qinling_falcon.orchestrators.base import (
    Confinement,
    Happening,
    RuntimeImage,
    ServerState,
    StartFailed,
    WorkerEvent,
    WorkerInfo,
)
from qinling_falcon.orchestrators.gateways import make_gateway
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi
from qinling_falcon.orchestrators.kubernetes.changes import Changes
from qinling_falcon.orchestrators.kubernetes.confinement import CONFINEMENT
from qinling_falcon.orchestrators.kubernetes.images import PodImages
from qinling_falcon.orchestrators.kubernetes.leader import LeaderLease
from qinling_falcon.orchestrators.kubernetes.leftovers import Leftovers
from qinling_falcon.orchestrators.kubernetes.manifests import Manifests
from qinling_falcon.orchestrators.kubernetes.pod_events import PodEvents
from qinling_falcon.orchestrators.kubernetes.pods import Pod, read_pod
from qinling_falcon.orchestrators.kubernetes.runtime_pods import RuntimePods
from qinling_falcon.orchestrators.kubernetes.spare_pods import SparePods
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.orchestrators.kubernetes.worker_addresses import WorkerAddresses
from qinling_falcon.orchestrators.kubernetes.worker_secrets import WorkerSecrets
from qinling_falcon.orchestrators.ping import ping
from qinling_falcon.settings import MOST_WORKERS, Settings, SettingsError

logger = logging.getLogger(__name__)

_CONCURRENT_STARTS = 16
_LOOK_AGAIN_S = 1.0
_PING_TIMEOUT_S = 2.0
# The nodes open the port of a new Service within seconds.
_NODE_PORT_TIMEOUT_S = 30.0
_PING_AGAIN_S = 0.2
_GONE_AFTER_CALL_S = 60.0


class KubernetesOrchestrator:
    """Makes, watches and destroys workers in a cluster (`orchestrators.base.Orchestrator`).

    Args:
        settings: the service's settings.

    Raises:
        SettingsError: a setting can't be used.
    """

    workers_outlive_manager = True
    concurrent_starts = _CONCURRENT_STARTS

    def __init__(self, settings: Settings):
        if not settings.secret_key_list:
            raise SettingsError(
                "SECRET_KEYS is unset: expected a key, for ORCHESTRATOR=kubernetes derives the workers' secrets from it"
            )
        # On a node that is cut off, a function may run on until its worker ends it.
        longest_call_s = settings.load_timeout_s + settings.max_timeout + settings.lease_grace_s
        self._gone_timeout_s = longest_call_s + _GONE_AFTER_CALL_S
        self._api = KubernetesApi(settings)
        self._secrets = WorkerSecrets(settings.secret_key_list)
        self._images = PodImages(settings)
        self._changes = Changes()
        self._events = PodEvents()
        self._leftovers = Leftovers(lambda pod: self._describe(pod) is not None)
        self._lease = LeaderLease(self._api, settings.kubernetes_namespace)
        self._pods_path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/pods"
        self._pods: Watch[Pod] = Watch(self._api, self._pods_path, names.MANAGED, read_pod, self._note_change)
        manifests = Manifests(settings, self._secrets)
        self._runtime_pods = RuntimePods(self._api, settings, manifests, self._images, self._changes)
        self._addresses = WorkerAddresses(self._api, settings, self._note_lost_address)
        self._gateway = make_gateway(settings)
        self._spare_pods = SparePods(
            self._api,
            settings,
            self._pods,
            self._runtime_pods,
            self._addresses,
            self._lease,
            self._changes,
            self._events,
        )
        self._pods.start()
        self._runtime_pods.watch.start()
        self._addresses.start()

    @property
    def most_workers(self) -> int:
        """The most workers that a pool manager can have."""
        return MOST_WORKERS

    def limit(self) -> int | None:
        """The number of workers, while the cluster has no room for a start. The pool then evicts idle workers."""
        if not self._spare_pods.has_no_room():
            return None
        pods = self._pods.objects.values()
        workers = {pod.worker_id for pod in pods if pod.worker_id and not pod.has_stopped}
        return max(1, len(workers | self._spare_pods.starting))

    def server(self) -> ServerState:
        """Whether the API server answers, and how many requests it got."""
        api = self._api
        return ServerState(api.away_since, api.away_reason, api.budget.used, api.budget.per_minute)

    def confinement(self) -> Confinement:
        """How pods are confined. What their nodes have beyond that, this manager does not know."""
        return CONFINEMENT

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no image can have this name."""
        self._images.resolve(image)

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        """Make the Deployments of these runtimes, delete others, and delete pods that can't be workers.

        Raises:
            ApiAway: the API server is away; a later call does the rest.
        """
        self._lease.require()
        self._runtime_pods.prepare(runtimes)
        leftovers = self._leftovers.find(self._pods.objects.values(), time.monotonic())
        for pod in [*leftovers, *self._events.find_returned()]:
            logger.warning("deletes a pod that can't be a worker", extra={"pod": pod.name, "worker_id": pod.worker_id})
            self._request_deletion(pod)

    def start(self, worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        """Take a spare pod of the runtime out of its Deployment, and wait for one if there is none.

        Args:
            worker_id: a new id.
            image: the image of the runtime.
            runtime_id: the runtime. It must be one of the last call of `prepare`.

        Raises:
            UnknownImage: no image can have this name.
            StartFailed: no pod became ready in time, or the pod can't be reached.
            ApiAway: the API server is away.
            NoRoom: the cluster has no room.
        """
        self._images.resolve(image)
        pod = self._spare_pods.take(worker_id, image, runtime_id)
        worker = self._describe(pod)
        if worker is None or not self._answers(worker):
            self.destroy(worker_id)
            raise StartFailed(
                f"pod {pod.name} is ready, but does not answer at {self._addresses.find(pod) or 'a port of its node'};"
                " see KUBERNETES_WORKER_ACCESS"
            )
        return worker

    def destroy(self, worker_id: str) -> None:
        """Delete the pod of a worker, and wait until all that ran in it has ended. Unknown ids are no error.

        The pod's object may stay for seconds after that. No caller needs to wait for it. A pod whose node does not tell
        of its end counts as gone after the longest call and 60 s more.

        Raises:
            ApiAway: the API server is away.
        """
        pods = list(self._pods.objects.values())
        found = [pod for pod in pods if pod.worker_id == worker_id and (pod.single_use or not pod.has_stopped)]
        found += self._events.find_returned(worker_id)
        for pod in found:
            self._events.being_deleted.add(pod.name)
            try:
                self._delete(pod)
            except ApiAway:
                self._events.being_deleted.discard(pod.name)
                raise

    def events(self) -> Sequence[WorkerEvent]:
        """What happened to the pods of workers since the last call."""
        return self._events.take()

    def list(self) -> Sequence[WorkerInfo]:
        """The workers that can be called and those for a single execution, as far as the API server has told.

        Raises:
            ApiAway: it has not told anything yet.
        """
        if not self._pods.is_listed:
            raise ApiAway(f"the pods were not listed yet: {self._pods.trouble or 'the API server is being asked'}")
        if self._addresses.unknown_because is not None:
            raise ApiAway(self._addresses.unknown_because)
        described = [self._describe(pod) for pod in self._pods.objects.values() if pod.state == names.TAKEN]
        single_use = [
            WorkerInfo(pod.worker_id, "", "", image=pod.image, since=pod.created, single_use=pod.single_use)
            for pod in self._pods.objects.values()
            if pod.single_use is not None and not pod.has_stopped and not self._is_overdue(pod)
        ]
        return [*(worker for worker in described if worker is not None), *single_use]

    def detach(self) -> None:
        """Stop watching. All pods live on."""
        self._lease.resign()
        self._pods.stop()
        self._runtime_pods.watch.stop()
        self._addresses.stop()
        self._api.close()

    def _answers(self, worker: WorkerInfo) -> bool:
        """Whether a new worker answers."""
        deadline = time.monotonic() + (_NODE_PORT_TIMEOUT_S if self._addresses.opens_late else 0)
        while ping(worker, _PING_TIMEOUT_S, self._gateway) is None:
            if time.monotonic() >= deadline:
                return False
            gevent.sleep(_PING_AGAIN_S)
        return True

    def _describe(self, pod: Pod) -> WorkerInfo | None:
        """The worker in a pod; None: it can't be called."""
        secret = self._secrets.worker_secret(pod.runtime_id, pod.fingerprint, pod.uid)
        if not pod.serves or secret is None:
            return None
        return WorkerInfo(pod.worker_id, self._addresses.find(pod), secret, pod.runtime_id, pod.image, pod.created)

    def _delete(self, pod: Pod) -> None:
        self._request_deletion(pod)
        deadline = time.monotonic() + self._gone_timeout_s
        while not self._has_ended(pod):
            if time.monotonic() >= deadline:
                logger.error("a pod does not end", extra={"pod": pod.name, "worker_id": pod.worker_id})
                return
            self._changes.wait(_LOOK_AGAIN_S)
        latest = self._pods.objects.get(pod.name)
        if pod.single_use is not None and latest is not None and latest.uid == pod.uid and not pod.container_exited:
            self._request_deletion(latest)

    def _request_deletion(self, pod: Pod) -> None:
        self._lease.require()
        # With a grace of 0, the API server removes the pod's object at once, and does not wait for the node. The next
        # attempt of the execution waits for that, because its pod has the same name.
        has_ended = pod.container_exited or self._is_overdue(pod)
        grace_s = 0 if pod.single_use is not None and has_ended else None
        try:
            self._api.delete(f"{self._pods_path}/{pod.name}", uid=pod.uid, grace_s=grace_s)
        except ApiError as error:
            raise ApiAway(f"pod {pod.name} could not be deleted: {error}") from error

    def _has_ended(self, pod: Pod) -> bool:
        found = self._pods.objects.get(pod.name)
        # The next attempt of an execution may have made a pod of the same name.
        return found is None or found.uid != pod.uid or found.has_stopped or self._is_overdue(found)

    def _is_overdue(self, pod: Pod) -> bool:
        """Whether the node of a pod that is being deleted had to end its container long ago, and has not told so."""
        return pod.is_being_deleted and pod.ends_by is not None and time.time() >= pod.ends_by + _GONE_AFTER_CALL_S

    def _note_change(self, before: Pod | None, after: Pod | None) -> None:
        self._changes.notify()
        self._events.note_change(before, after)

    def _note_lost_address(self, worker_id: str) -> None:
        for pod in self._pods.objects.values():
            if pod.worker_id == worker_id and pod.state == names.TAKEN and pod.serves:
                self._events.add(pod, Happening.FAILED, "its Service was deleted or changed")
