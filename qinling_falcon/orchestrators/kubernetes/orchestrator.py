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

from qinling_falcon.orchestrators.base import (
    Confinement,
    Happening,
    RuntimeImage,
    ServerState,
    StartFailed,
    WorkerEvent,
    WorkerInfo,
)
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi
from qinling_falcon.orchestrators.kubernetes.changes import Changes
from qinling_falcon.orchestrators.kubernetes.images import PodImages
from qinling_falcon.orchestrators.kubernetes.leader import LeaderLease
from qinling_falcon.orchestrators.kubernetes.manifests import Manifests
from qinling_falcon.orchestrators.kubernetes.pods import Pod, Trouble, read_pod
from qinling_falcon.orchestrators.kubernetes.runtime_pods import RuntimePods
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.orchestrators.kubernetes.worker_secrets import WorkerSecrets
from qinling_falcon.orchestrators.ping import ping
from qinling_falcon.settings import MOST_WORKERS, Settings, SettingsError

logger = logging.getLogger(__name__)

_CONCURRENT_STARTS = 16
_LOOK_AGAIN_S = 1.0
_PING_TIMEOUT_S = 2.0
_GONE_TIMEOUT_S = 60.0
# Trouble that may pass by itself, such as a registry that does not answer, is waited for so long.
_PATIENCE_S = 20.0
_FORM = "kubernetes"


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
        self._settings = settings
        self._api = KubernetesApi(settings)
        self._secrets = WorkerSecrets(settings.secret_key_list)
        self._images = PodImages(settings)
        self._changes = Changes()
        self._lease = LeaderLease(self._api, settings.kubernetes_namespace)
        self._pods_path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/pods"
        self._pods: Watch[Pod] = Watch(self._api, self._pods_path, names.MANAGED, read_pod, self._note_change)
        manifests = Manifests(settings, self._secrets)
        self._runtime_pods = RuntimePods(self._api, settings, manifests, self._images, self._changes)
        # Names of spare pods that a start is taking, and of pods that this manager deletes.
        self._being_taken: set[str] = set()
        self._being_deleted: set[str] = set()
        self._events: list[WorkerEvent] = []
        self._pods.start()
        self._runtime_pods.watch.start()

    @property
    def most_workers(self) -> int:
        """The most workers that a pool manager can have, or fewer if the cluster has no room for more."""
        return MOST_WORKERS

    def server(self) -> ServerState:
        """Whether the API server answers, and how many requests it got."""
        api = self._api
        return ServerState(api.away_since, api.away_reason, api.budget.used, api.budget.per_minute)

    def confinement(self) -> Confinement:
        """How pods are confined, as far as this manager knows it."""
        return Confinement(_FORM)

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no image can have this name."""
        self._images.resolve(image)

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        """Make the Deployments of these runtimes, and delete others.

        Raises:
            ApiAway: the API server is away, or refuses; a later call does the rest.
        """
        self._lease.require()
        try:
            self._runtime_pods.prepare(runtimes)
        except ApiError as error:
            raise ApiAway(f"the spare pods of a runtime could not be prepared: {error}") from error

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
        """
        self._images.resolve(image)
        pod = self._take(worker_id, image, runtime_id)
        worker = self._describe(pod)
        if worker is None or ping(worker, _PING_TIMEOUT_S) is None:
            self.destroy(worker_id)
            raise StartFailed(
                f"pod {pod.name} is ready, but does not answer at {pod.ip}:{names.WORKER_PORT}; see"
                " KUBERNETES_WORKER_ACCESS"
            )
        return worker

    def destroy(self, worker_id: str) -> None:
        """Delete the pod of a worker, and wait until it is gone. Unknown ids are no error.

        Raises:
            ApiAway: the API server is away.
        """
        found = [pod for pod in list(self._pods.objects.values()) if pod.worker_id == worker_id]
        for pod in found:
            self._being_deleted.add(pod.name)
            try:
                self._delete(pod)
            finally:
                self._being_deleted.discard(pod.name)

    def events(self) -> Sequence[WorkerEvent]:
        """What happened to the pods of workers since the last call."""
        events, self._events = self._events, []
        return events

    def list(self) -> Sequence[WorkerInfo]:
        """The workers that can be called and those for a single execution, as far as the API server has told.

        Raises:
            ApiAway: it has not told anything yet.
        """
        if not self._pods.is_listed:
            raise ApiAway(f"the pods were not listed yet: {self._pods.trouble or 'the API server is being asked'}")
        described = [self._describe(pod) for pod in self._pods.objects.values() if pod.state == names.TAKEN]
        single_use = [
            WorkerInfo(pod.worker_id, "", "", image=pod.image, since=pod.created, single_use=pod.single_use)
            for pod in self._pods.objects.values()
            if pod.single_use is not None
        ]
        return [*(worker for worker in described if worker is not None), *single_use]

    def detach(self) -> None:
        """Stop watching. All pods live on."""
        self._lease.resign()
        self._pods.stop()
        self._runtime_pods.watch.stop()
        self._api.close()

    def _take(self, worker_id: str, image: str, runtime_id: str) -> Pod:
        deadline = time.monotonic() + self._settings.kubernetes_start_timeout_s
        trouble_since: float | None = None
        while True:
            pod = self._find_spare(image, runtime_id)
            if pod is not None:
                taken = self._try_to_take(pod, worker_id)
                if taken is not None:
                    return taken
                continue
            if self._api.away_since is not None:
                raise ApiAway("the API server is away, so no spare pod can be taken")
            trouble = self._trouble(image, runtime_id)
            now = time.monotonic()
            trouble_since = trouble_since or now if trouble else None
            if trouble and trouble_since and (trouble.is_final or now >= trouble_since + _PATIENCE_S):
                raise StartFailed(trouble.reason)
            if now >= deadline:
                raise StartFailed(
                    f"no pod became ready within {self._settings.kubernetes_start_timeout_s:g} s"
                    + (f": {trouble.reason}" if trouble else "")
                )
            self._changes.wait(min(_LOOK_AGAIN_S, deadline - now))

    def _find_spare(self, image: str, runtime_id: str) -> Pod | None:
        """The oldest spare pod that no other start is taking."""
        key = names.image_key(image)
        spare = [
            pod
            for pod in self._pods.objects.values()
            if pod.state == names.SPARE and pod.runtime_id == runtime_id and pod.image_key == key
            and pod.serves and pod.name not in self._being_taken
        ]  # fmt: skip
        return min(spare, key=lambda pod: (pod.created, pod.name), default=None)

    def _try_to_take(self, pod: Pod, worker_id: str) -> Pod | None:
        """Take a spare pod out of its Deployment. None: another manager has taken it, or it is gone.

        If this process dies just after the request, `list` shows the worker, and the next manager adopts it.
        """
        self._lease.require()
        self._being_taken.add(pod.name)
        label = "/metadata/labels/qinling-falcon~1"
        try:
            changed = self._api.change(
                f"{self._pods_path}/{pod.name}",
                [
                    {"op": "test", "path": "/metadata/uid", "value": pod.uid},
                    {"op": "test", "path": f"{label}state", "value": names.SPARE},
                    {"op": "replace", "path": f"{label}state", "value": names.TAKEN},
                    {"op": "add", "path": f"{label}worker", "value": worker_id},
                    # At once, or the pod would be deleted with its ReplicaSet until the controller has seen the change.
                    {"op": "remove", "path": "/metadata/ownerReferences"},
                ],
            )
        except ApiError as error:
            logger.info("a spare pod could not be taken", extra={"pod": pod.name, "reason": str(error)})
            self._pods.objects.pop(pod.name, None)
            return None
        finally:
            self._being_taken.discard(pod.name)
        return self._pods.put(changed)

    def _trouble(self, image: str, runtime_id: str) -> Trouble | None:
        """Why the runtime gets no spare pod of an image; None: nothing is known to be wrong."""
        key = names.image_key(image)
        for pod in self._pods.objects.values():
            if pod.state == names.SPARE and pod.runtime_id == runtime_id and pod.image_key == key and pod.trouble:
                return pod.trouble
        reason = self._runtime_pods.trouble(runtime_id)
        return Trouble(reason) if reason else None

    def _describe(self, pod: Pod) -> WorkerInfo | None:
        """The worker in a pod; None: it can't be called."""
        secret = self._secrets.worker_secret(pod.runtime_id, pod.fingerprint, pod.uid)
        if not pod.serves or secret is None:
            return None
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        address = f"{host}:{names.WORKER_PORT}"
        return WorkerInfo(pod.worker_id, address, secret, pod.runtime_id, pod.image, pod.created)

    def _delete(self, pod: Pod) -> None:
        self._lease.require()
        path = f"{self._pods_path}/{pod.name}"
        try:
            # Without a grace, the server removes a pod at once and does not wait for its node. A worker for a single
            # execution mostly has nothing left to end.
            if not self._api.delete(path, uid=pod.uid, grace_s=0 if pod.single_use and pod.has_ended else None):
                return
        except ApiError as error:
            raise ApiAway(f"pod {pod.name} could not be deleted: {error}") from error
        deadline = time.monotonic() + _GONE_TIMEOUT_S
        # The next attempt of an execution may make a pod of the same name at once.
        while (latest := self._pods.objects.get(pod.name)) is not None and latest.uid == pod.uid:
            if time.monotonic() >= deadline:
                logger.error("a pod does not end", extra={"pod": pod.name, "worker_id": pod.worker_id})
                return
            self._changes.wait(_LOOK_AGAIN_S)

    def _note_change(self, before: Pod | None, after: Pod | None) -> None:
        self._changes.notify()
        if before is None or before.state != names.TAKEN or before.name in self._being_deleted:
            return
        if after is None or after.uid != before.uid:
            self._tell(before, Happening.ENDED, "its pod was deleted")
        elif after.is_ending and not before.is_ending:
            self._tell(before, Happening.FAILED, "its pod is being deleted")
        elif after.trouble is not None and after.trouble.is_final and before.trouble != after.trouble:
            self._tell(before, Happening.FAILED, after.trouble.reason)
        elif before.serves and not after.serves and not after.is_ending:
            self._tell(before, Happening.FAILED, after.trouble.reason if after.trouble else "its pod is not ready")
        elif after.restarts > before.restarts:
            self._tell(before, Happening.CHANGED, "its container was restarted")
        elif after.ip != before.ip:
            self._tell(before, Happening.CHANGED, "its pod has another address")

    def _tell(self, pod: Pod, happening: Happening, reason: str) -> None:
        self._events.append(WorkerEvent(pod.worker_id, happening, reason))
