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
from qinling_falcon.orchestrators.kubernetes.pods import Trouble
from qinling_falcon.orchestrators.kubernetes.watch import Watch
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

# `grow` adds spare pods up to this number.
_MOST_SPARE = 50
# The added spare pods are removed when no start has waited for so long.
_GROWN_FOR_S = 10.0
_NUDGE_EVERY_S = 2.0
# A Secret that someone has deleted is made again within this time.
_SECRET_EVERY_S = 300.0


@dataclass(frozen=True, slots=True)
class Deployment:
    """The fields of a Deployment that the pool manager uses.

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
    trouble: Trouble | None


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
        # By runtime, why the API server refuses its Deployment or Secret.
        self._refusals: dict[str, Trouble] = {}
        # By name, when a Secret was last applied.
        self._secret_at: dict[str, float] = {}
        self._manifests = manifests
        self._images = images
        self._deployments_path = f"/apis/apps/v1/namespaces/{settings.kubernetes_namespace}/deployments"
        self._secrets_path = f"/api/v1/namespaces/{settings.kubernetes_namespace}/secrets"
        self.watch = Watch(
            api, self._deployments_path, names.MANAGED, _read_deployment, lambda _before, _after: changes.notify()
        )

    def trouble(self, runtime_id: str) -> Trouble | None:
        """Why a runtime's Deployment can't be made, or can't make pods; None: nothing is known to be wrong."""
        deployment = self.watch.objects.get(names.runtime_name(runtime_id))
        return self._refusals.get(runtime_id) or (deployment.trouble if deployment else None)

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

        After each failure the controller waits longer, up to a quarter of an hour, and does not notice that the quota
        has room again. Any change of the Deployment makes it try at once.

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

        A refused Deployment is the `trouble` of its runtime, and does not keep others from being made.

        Raises:
            ApiAway: the API server is away; the rest is done by the next call.
        """
        if not self.watch.is_listed:
            return
        wanted = {names.runtime_name(runtime.runtime_id) for runtime in runtimes}
        for runtime in runtimes:
            try:
                self._prepare(runtime)
                self._refusals.pop(runtime.runtime_id, None)
            except ApiError as error:
                self._note_refusal(runtime.runtime_id, error)
        for name in (self.watch.objects.keys() | self._secret_at.keys()) - wanted:
            self._delete(name)

    def _note_refusal(self, runtime_id: str, error: ApiError) -> None:
        trouble = Trouble(f"the API server refuses the Deployment or its Secret: {error}")
        if self._refusals.get(runtime_id) != trouble:
            extra = {"runtime_id": runtime_id, "reason": trouble.reason}
            logger.warning("the spare pods of a runtime can't be prepared", extra=extra)
        self._refusals[runtime_id] = trouble

    def _delete(self, name: str) -> None:
        """Delete the Deployment and the Secret of a runtime that is gone.

        The Secret goes first: if this process dies in between, the Deployment brings the next one here.
        """
        logger.info("deletes the spare pods of a runtime that is gone", extra={"deployment": name})
        try:
            self._api.delete(f"{self._secrets_path}/{name}")
            self._secret_at.pop(name, None)
            self._api.delete(f"{self._deployments_path}/{name}")
        except ApiError as error:
            logger.warning("a Deployment can't be deleted", extra={"deployment": name, "reason": str(error)})

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
            if time.monotonic() >= self._secret_at.get(name, float("-inf")) + _SECRET_EVERY_S:
                self._apply_secret(name, objects.secret)
            return
        # If this process dies after the first request, the next call does the second one.
        self._apply_secret(name, objects.secret)
        self.watch.put(self._api.apply(f"{self._deployments_path}/{name}", objects.deployment))
        logger.info("prepared the spare pods of a runtime", extra={"runtime_id": runtime.runtime_id, "image": image})

    def _apply_secret(self, name: str, secret: Mapping[str, Any]) -> None:
        self._api.apply(f"{self._secrets_path}/{name}", secret)
        self._secret_at[name] = time.monotonic()

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
        message = str(failure.get("message"))
        trouble = Trouble(f"{failure.get('reason')}: {message}", lacks_room="exceeded quota" in message)
    return Deployment(
        name=metadata["name"],
        runtime_id=metadata.get("labels", {}).get(names.RUNTIME, ""),
        digest=metadata.get("annotations", {}).get(names.TEMPLATE, ""),
        replicas=given["spec"].get("replicas", 1),
        trouble=trouble,
    )
