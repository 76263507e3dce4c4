"""The addresses of workers in pods, as `KUBERNETES_WORKER_ACCESS` says.

With `node-port`, each worker has a Service, which opens a port on the nodes. The pod owns its Service, so Kubernetes
deletes the Service with the pod. The Service is made before the pod becomes a worker. So each worker has one, also if
the manager dies in between, and a manager finds the addresses of all workers in the cluster.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from qinling_falcon.orchestrators.addresses import pod_address, tcp_address
from qinling_falcon.orchestrators.base import StartFailed
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi
from qinling_falcon.orchestrators.kubernetes.pods import Pod
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerService:
    """The fields of a worker's Service that the pool manager uses.

    Attributes:
        worker_id: the worker.
        node_port: the port on the nodes; 0: none.
    """

    worker_id: str
    node_port: int


class WorkerAddresses:
    """Finds the addresses of workers, and makes their Services where they need some.

    Args:
        api: the API server.
        settings: the kind of access, and the namespace.
        lost: is called with the id of a worker whose Service was deleted or has another port.
    """

    def __init__(self, api: KubernetesApi, settings: Settings, lost: Callable[[str], None]):
        self._api = api
        self._access = settings.kubernetes_worker_access
        self._node_address = settings.kubernetes_node_address
        self._namespace = settings.kubernetes_namespace
        self._path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/services"
        self._lost = lost
        self._services: Watch[WorkerService] | None = None
        if self._access == "node-port":
            self._services = Watch(api, self._path, names.MANAGED, _read_service, self._note_change)

    @property
    def opens_late(self) -> bool:
        """Whether a new address refuses connections at first, because the nodes open its port some time later."""
        return self._services is not None

    @property
    def unknown_because(self) -> str | None:
        """Why the addresses are not known yet; None: they are."""
        if self._services is None or self._services.is_listed:
            return None
        return f"the Services were not listed yet: {self._services.trouble or 'the API server is being asked'}"

    def start(self) -> None:
        """Begin to watch the Services, if there are any."""
        if self._services is not None:
            self._services.start()

    def stop(self) -> None:
        """Stop watching."""
        if self._services is not None:
            self._services.stop()

    def find(self, pod: Pod) -> str:
        """The address of the worker in a pod; empty: it has none, so the worker can't be called."""
        match self._access:
            case "pod":
                return tcp_address(pod.ip, names.WORKER_PORT)
            case "api-proxy":
                return pod_address(self._namespace, pod.name)
            case "node-port":
                assert self._services is not None
                service = self._services.objects.get(names.service_name(pod.worker_id))
                if service is None or not service.node_port:
                    return ""
                return tcp_address(self._node_address or pod.host_ip, service.node_port)

    def make(self, pod: Pod, worker_id: str) -> None:
        """Make what the address of a worker needs.

        Args:
            pod: the pod that becomes the worker.
            worker_id: the worker.

        Raises:
            StartFailed: the API server refuses a Service.
            ApiAway: the API server is away.
        """
        if self._services is None:
            return
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": names.service_name(worker_id),
                "labels": names.MANAGED_LABELS | {names.WORKER: worker_id},
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid}],
            },
            "spec": {
                "type": "NodePort",
                "selector": {names.WORKER: worker_id},
                "ports": [{"name": "http", "port": names.WORKER_PORT, "targetPort": names.WORKER_PORT}],
            },
        }
        try:
            self._services.put(self._api.create(self._path, service))
        except ApiError as error:
            raise StartFailed(f"the API server refuses a Service for pod {pod.name}: {error}") from error

    def discard(self, worker_id: str) -> None:
        """Delete what `make` has made, because the pod did not become the worker."""
        if self._services is None:
            return
        try:
            self._api.delete(f"{self._path}/{names.service_name(worker_id)}")
        except (ApiAway, ApiError) as error:
            logger.info("a Service stays until its pod ends", extra={"worker_id": worker_id, "reason": str(error)})

    def _note_change(self, before: WorkerService | None, after: WorkerService | None) -> None:
        if before is not None and (after is None or after.node_port != before.node_port):
            self._lost(before.worker_id)


def _read_service(given: Mapping[str, Any]) -> WorkerService:
    ports = given["spec"].get("ports", ())
    return WorkerService(
        worker_id=given["metadata"].get("labels", {}).get(names.WORKER, ""),
        node_port=next((port.get("nodePort", 0) for port in ports), 0),
    )
