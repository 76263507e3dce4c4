"""Leader election of pool managers: of all managers on one Redis, the one that holds the claim is active."""

from __future__ import annotations

import logging
import os
import time
import uuid

import gevent
from gevent.event import Event

from qinling_falcon.pool.network import network_id
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

_TTL_S = 5.0
_RENEWALS_PER_TTL = 5
_LONGEST_PASS_S = 30.0


class Claim:
    """The claim of this pool manager, a key in Redis. `/readyz` checks that the key exists.

    The claim expires 5 s after its last renewal. A standby therefore takes over at most 6 s after the active manager
    died, or at once after an orderly stop. A background greenlet renews the claim during the manager's passes, because
    a pass may take longer than 5 s. If a pass hangs, the greenlet stops renewing.

    Args:
        registry: reads and writes the claim.
        settings: intervals and timeouts.
        ttl_s: seconds from the last renewal until the claim expires.
        longest_pass_s: a pass that takes longer counts as hanging. The default is 30 s, or more if the database's
            timeout is long.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        *,
        ttl_s: float = _TTL_S,
        longest_pass_s: float | None = None,
    ):
        self._registry = registry
        self._interval_s = settings.reap_interval_s
        self._ttl_s = ttl_s
        # A pass makes a few database queries.
        self._longest_pass_s = longest_pass_s or max(_LONGEST_PASS_S, 4 * settings.database_timeout_s)
        # The random part makes the name unique, because several containers may have the same host name and pid.
        # The network counts only for local workers. Pods are reached from other machines, too.
        network = network_id() if settings.orchestrator == "process" else ""
        self.name = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:8]}:{network}"
        self._active: str | None = None
        self._pass_started_at = 0.0
        self._renewer: gevent.Greenlet | None = None

    @property
    def held(self) -> bool:
        """Whether this process was the active manager at the last request."""
        return self._active == self.name

    def wait(self, stopping: Event) -> bool:
        """Stand by until this process is the active manager. Returns False if it should stop instead."""
        healthy = True
        while not stopping.is_set():
            try:
                if self.take():
                    return True
                healthy = True
            except PoolUnavailable as error:
                if healthy:
                    log.warning("the pool manager waits: %s", error)
                healthy = False
            stopping.wait(self._interval_s)
        return False

    def take(self) -> bool:
        """Take or renew the claim for the pass that starts now. Returns False if another manager is active.

        Raises:
            PoolUnavailable: Redis is away.
        """
        self._pass_started_at = time.monotonic()
        taken = self._ask()
        if taken and self._renewer is None:
            self._renewer = gevent.spawn(self._renew)
        return taken

    def resign(self) -> None:
        """Give up the claim, so that another manager can take over at once.

        Raises:
            PoolUnavailable: Redis is away; the claim expires by itself.
        """
        self.lapse()
        self._registry.resign_manager(self.name)

    def lapse(self) -> None:
        """Stop renewing the claim; it then expires."""
        if self._renewer is not None:
            self._renewer.kill()
            self._renewer = None

    def _ask(self) -> bool:
        active = self._registry.claim_manager(self.name, self._ttl_s)
        before, self._active = self._active, active
        if active == self.name:
            if before not in (None, active):
                log.warning("this pool manager takes over", extra={"from_manager": _shown(before)})
        elif active != before:
            log.warning("this pool manager stands by: another one is active", extra={"active_manager": _shown(active)})
        return active == self.name

    def _renew(self) -> None:
        while True:
            gevent.sleep(self._ttl_s / _RENEWALS_PER_TTL)
            if self.held and time.monotonic() - self._pass_started_at < self._longest_pass_s:
                try:
                    self._ask()
                except PoolUnavailable:
                    pass  # the next pass fails for the same reason and logs it
                except Exception:
                    log.exception("the claim of the pool manager was not renewed")


def _shown(name: str | None) -> dict[str, str]:
    """The host and pid from a manager's name, for the log."""
    host, _, rest = (name or "").partition(":")
    return {"host": host, "pid": rest.partition(":")[0]}
