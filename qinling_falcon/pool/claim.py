"""The claim to be the one active pool manager, among all that run on one Redis."""

from __future__ import annotations

import logging
import os
import time
import uuid

import gevent
from gevent.event import Event

from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

_TTL_S = 5.0
_RENEWALS_PER_TTL = 5
_LONGEST_PASS_S = 30.0


class Claim:
    """What a pool manager holds in Redis while it is the active one; `/readyz` asks whether anybody does.

    The claim expires 5 s after it was last renewed, so a standby takes over at most 6 s after the active manager died,
    or at once when that one has ended in order. It is renewed beside the manager's passes, which may take longer, but
    not beside a pass that hangs.

    Args:
        registry: where the claim is.
        settings: intervals and timeouts.
        ttl_s: time from the last renewal until the claim expires.
        longest_pass_s: a pass that takes longer hangs. By default 30 s, or what a slow database may cost a pass.
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
        # A pass asks the database a few times.
        self._longest_pass_s = longest_pass_s or max(_LONGEST_PASS_S, 4 * settings.database_timeout_s)
        # The random part tells processes apart whose hosts have one name, as containers may.
        self.name = f"{os.uname().nodename}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._active: str | None = None
        self._pass_began = 0.0
        self._renewer: gevent.Greenlet | None = None

    @property
    def held(self) -> bool:
        """Whether this process was the active manager when it last asked."""
        return self._active == self.name

    def wait(self, stopping: Event) -> bool:
        """Stand by until this process is the active manager; False: it is to stop."""
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
        """Be, or stay, the active manager, for the pass that begins now. False: another one is active.

        Raises:
            PoolUnavailable: Redis is away.
        """
        self._pass_began = time.monotonic()
        taken = self._ask()
        if taken and self._renewer is None:
            self._renewer = gevent.spawn(self._renew)
        return taken

    def resign(self) -> None:
        """End in order: another manager may be active at once.

        Raises:
            PoolUnavailable: Redis is away; the claim expires by itself.
        """
        self.lapse()
        self._registry.resign_manager(self.name)

    def lapse(self) -> None:
        """Renew the claim no more; it expires by itself."""
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
            if self.held and time.monotonic() - self._pass_began < self._longest_pass_s:
                try:
                    self._ask()
                except PoolUnavailable:
                    pass  # the next pass says so
                except Exception:
                    log.exception("the claim of the pool manager was not renewed")


def _shown(name: str | None) -> dict[str, str]:
    """A manager's name for the log: its host and process."""
    host, _, rest = (name or "").partition(":")
    return {"host": host, "pid": rest.partition(":")[0]}
