"""The Lease object that makes one pool manager the leader: only the leader changes the cluster.

The claim in Redis decides which manager is active (`pool/claim.py`), but Redis may lose it. Two managers may then think
for a moment that they are active. The Lease keeps the second one from changing pods until the first one has stopped.

The holder renews its Lease as long as the manager asks for it. Another manager takes it when it was not renewed for its
duration, by the other manager's own clock, so the clocks of two machines need not agree.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import gevent
from gevent.event import Event

from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi

logger = logging.getLogger(__name__)

_NAME = "pool-manager"
_DURATION_S = 6.0
_RENEW_EVERY_S = 2.0
_TRY_EVERY_S = 1.0
# The holder stops changing the cluster this long before another manager may take the Lease.
_MARGIN_S = 1.5
# A manager that has not called `require` for so long is not active any more, and lets another one have the Lease.
_ASKED_WITHIN_S = 5.0
_TAKE_TIMEOUT_S = 3.0
_TRIES = 5


class LeaderLease:
    """The Lease of an installation, as one manager sees it.

    Args:
        api: the API server.
        namespace: where the Lease is.
    """

    def __init__(self, api: KubernetesApi, namespace: str):
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._name = f"{os.uname().nodename}_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        self._held_until = 0.0
        self._asked_at = float("-inf")
        self._greenlet: gevent.Greenlet | None = None
        self._was_answered = Event()
        # The Lease as this manager has last written it.
        self._own: Mapping[str, Any] | None = None
        # The Lease of another holder as it was last seen, and when it was first seen so.
        self._seen: tuple[str, str, float] | None = None

    @property
    def is_held(self) -> bool:
        """Whether this manager may change the cluster now."""
        return time.monotonic() < self._held_until

    def require(self) -> None:
        """Ask for the Lease. The first call waits for an answer; later ones only keep it.

        Raises:
            ApiAway: another manager has it, or the API server is away.
        """
        self._asked_at = time.monotonic()
        if self._greenlet is None:
            self._greenlet = gevent.spawn(self._renew)
            self._was_answered.wait(_TAKE_TIMEOUT_S)
        if not self.is_held:
            raise ApiAway(
                f"pool manager {self._seen[0]} holds the Lease that lets it change the cluster"
                if self._seen
                else "this pool manager does not hold the Lease that lets it change the cluster"
            )

    def resign(self) -> None:
        """Let another manager have the Lease at once."""
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None
        if self.is_held:
            self._held_until = 0.0
            try:
                self._write(self._own or self._read(), holder="")
            except (ApiAway, ApiError) as error:
                logger.info("the Lease lapses by itself", extra={"reason": str(error)})

    def _renew(self) -> None:
        while True:
            if time.monotonic() - self._asked_at < _ASKED_WITHIN_S:
                try:
                    self._take()
                except (ApiAway, ApiError) as error:
                    logger.info("the Lease was not renewed", extra={"reason": str(error)})
                except Exception:
                    logger.exception("the Lease was not renewed")
            self._was_answered.set()
            gevent.sleep(_RENEW_EVERY_S if self.is_held else _TRY_EVERY_S)

    def _take(self) -> None:
        """Take or renew the Lease, unless another manager holds it."""
        for _ in range(_TRIES):
            since = time.monotonic()
            lease = self._own or self._read()
            if lease is not None and self._belongs_to_another(lease["spec"], since):
                return
            was_held, self._own = self.is_held, None
            try:
                self._own = self._write(lease, holder=self._name)
            except ApiError as error:
                if error.status in (404, 409):  # it was deleted, or changed by anyone since it was read
                    continue
                raise
            self._seen = None
            self._held_until = since + _DURATION_S - _MARGIN_S
            if not was_held:
                logger.info("this pool manager took the Lease", extra={"holder": self._name})
            return

    def _read(self) -> Mapping[str, Any] | None:
        try:
            lease: Mapping[str, Any] = self._api.get(f"{self._path}/{_NAME}", urgent=True)
        except ApiError as error:
            if error.status != 404:
                raise
            return None
        return lease

    def _belongs_to_another(self, spec: Mapping[str, Any], now: float) -> bool:
        holder, renewed = spec.get("holderIdentity") or "", spec.get("renewTime") or ""
        if holder in ("", self._name):
            return False
        if self._seen is None or self._seen[:2] != (holder, renewed):
            if self._seen is None or self._seen[0] != holder:
                logger.info("another pool manager holds the Lease", extra={"holder": holder})
            self._seen = (holder, renewed, now)
        return now < self._seen[2] + _DURATION_S

    def _write(self, lease: Mapping[str, Any] | None, *, holder: str) -> Mapping[str, Any]:
        """Write the Lease, if it has not changed since it was read. Returns the new Lease."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": holder, "leaseDurationSeconds": int(_DURATION_S), "renewTime": now}
        metadata: dict[str, Any] = {"name": _NAME, "labels": names.MANAGED_LABELS}
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        written: Mapping[str, Any]
        if lease is None:
            written = self._api.create(self._path, body, urgent=True)
        else:
            metadata["resourceVersion"] = lease["metadata"]["resourceVersion"]
            written = self._api.replace(f"{self._path}/{_NAME}", body, urgent=True)
        return written
