"""Keeps the Deployments of runtimes, each with its spare pods, as the runtimes' rows want them.

A spare pod runs the worker's program, but is no worker of the pool yet. `orchestrator.py` takes one when the pool wants
a worker, and the Deployment replaces it in the background. So a start costs one request to the API server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qinling_falcon.orchestrators.base import RuntimeImage, UnknownImage
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiError, KubernetesApi
from qinling_falcon.orchestrators.kubernetes.changes import Changes
from qinling_falcon.orchestrators.kubernetes.images import PodImages
from qinling_falcon.orchestrators.kubernetes.manifests import Manifests
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

# The most spare pods of a runtime while starts wait, and how long it keeps them afterwards.
_MOST_SPARE = 50
_GROWN_FOR_S = 10.0
_NUDGE_EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is kept of a Deployment.

    Attributes:
        name: its name.
        runtime_id: its runtime.
        digest: of what it was made from.
        replicas: how many pods it is to have.
        trouble: why it can't make pods; None: nothing is known to be wrong.
    """

    name: str
    runtime_id: str
    digest: str
    replicas: int
    trouble: str | None


class RuntimePods:
    """The Deployments of all runtimes.

    Args:
        api: the API server.
        settings: the namespace, and how many spare pods there are.
        manifests: makes the objects.
        images: the images of pods.
        changes: is notified of changes of the Deployments.
    """

    def __init__(
        self, api: KubernetesApi, settings: Settings, manifests: Manifests, images: PodImages, changes: Changes
    ):
        self._api = api
        self._spare = settings.kubernetes_spare_pods
        # By runtime, when a start has last waited for a spare pod.
        self._grown_at: dict[str, float] = {}
        self._nudged_at = float("-inf")
        self._manifests = manifests
        self._images = images
        self._deployments_path = f"/apis/apps/v1/namespaces/{settings.kubernetes_namespace}/deployments"
        self._secrets_path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/secrets"
        self.watch = Watch(
            api, self._deployments_path, names.MANAGED, _read_deployment, lambda _before, _after: changes.notify()
        )

    def trouble(self, runtime_id: str) -> str | None:
        """Why a runtime's Deployment can't make pods; None: nothing is known to be wrong."""
        deployment = self.watch.objects.get(names.runtime_name(runtime_id))
        return deployment.trouble if deployment else None

    def wanted(self, runtime_id: str) -> int:
        """How many spare pods a runtime's Deployment is to have."""
        deployment = self.watch.objects.get(names.runtime_name(runtime_id))
        return deployment.replicas if deployment else 0

    def grow(self, runtime_id: str, waiting: int) -> None:
        """Give a runtime one more spare pod for each start that waits. `prepare` takes them back later.

        Raises:
            ApiAway: the API server is away.
        """
        self._grown_at[runtime_id] = time.monotonic()
        wanted = min(self._spare + waiting, _MOST_SPARE)
        if 0 < self.wanted(runtime_id) < wanted:
            self._scale(names.runtime_name(runtime_id), wanted)

    def nudge(self, runtime_id: str) -> None:
        """Make the controller of a Deployment try again now, if a quota has kept it from making pods.

        By itself, it waits longer after each failure, up to a quarter of an hour, and does not notice that there is
        room again.

        Raises:
            ApiAway: the API server is away.
        """
        now = time.monotonic()
        if self.trouble(runtime_id) is None or now < self._nudged_at + _NUDGE_EVERY_S:
            return
        self._nudged_at = now
        annotation = {"metadata": {"annotations": {names.NUDGED: str(time.time())}}}
        self._change(names.runtime_name(runtime_id), annotation)

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        """Make the Deployments as the runtimes want them, and delete those of other runtimes.

        Raises:
            ApiAway: the API server is away; the rest is done by the next call.
            ApiError: it refused a request.
        """
        if not self.watch.is_listed:
            return
        wanted = {names.runtime_name(runtime.runtime_id) for runtime in runtimes}
        for runtime in runtimes:
            self._prepare(runtime)
        for name in self.watch.objects.keys() - wanted:
            logger.info("deletes the spare pods of a runtime that is gone", extra={"deployment": name})
            self._api.delete(f"{self._deployments_path}/{name}")
            self._api.delete(f"{self._secrets_path}/{name}")

    def _prepare(self, runtime: RuntimeImage) -> None:
        try:
            image = self._images.resolve(runtime.image)
        except UnknownImage:
            return  # a start gives the reason
        objects = self._manifests.make(runtime, image, self._spare)
        name = names.runtime_name(runtime.runtime_id)
        deployment = self.watch.objects.get(name)
        if deployment is not None and deployment.digest == objects.digest:
            grown_at = self._grown_at.get(runtime.runtime_id, float("-inf"))
            if deployment.replicas != self._spare and time.monotonic() >= grown_at + _GROWN_FOR_S:
                self._scale(name, self._spare)
            return
        # If this process dies after the first request, the next call does the second one.
        self._api.apply(f"{self._secrets_path}/{name}", objects.secret)
        self.watch.put(self._api.apply(f"{self._deployments_path}/{name}", objects.deployment))
        logger.info("prepared the spare pods of a runtime", extra={"runtime_id": runtime.runtime_id, "image": image})


    def _scale(self, name: str, replicas: int) -> None:
        self._change(name, {"spec": {"replicas": replicas}})

    def _change(self, name: str, changes: Mapping[str, Any]) -> None:
        try:
            self.watch.put(self._api.merge(f"{self._deployments_path}/{name}", changes))
        except ApiError as error:
            logger.info("a Deployment could not be changed", extra={"deployment": name, "reason": str(error)})


def _read_deployment(given: Mapping[str, Any]) -> Deployment:
    metadata, status = given["metadata"], given.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    trouble = None
    failure = conditions.get("ReplicaFailure", {})
    if failure.get("status") == "True":
        trouble = f"{failure.get('reason')}: {failure.get('message')}"
    return Deployment(
        name=metadata["name"],
        runtime_id=metadata.get("labels", {}).get(names.RUNTIME, ""),
        digest=metadata.get("annotations", {}).get(names.TEMPLATE, ""),
        replicas=given["spec"].get("replicas", 1),
        trouble=trouble,
    )
