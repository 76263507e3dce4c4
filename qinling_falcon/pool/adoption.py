"""Adopts live workers that Redis does not know, because they have outlived their manager or Redis has lost its data.

The manager asks such a worker for its state (`GET /ping`). There are three cases:

1. The worker holds no target: it is registered as a warm worker.
2. The worker holds a target and runs no call: it is replaced. The generations and the token of its target are unknown,
   so it might run code that was replaced meanwhile.
3. The worker runs a call, whose caller still waits for the answer. The worker is asked again until the call has ended,
   for at most as long as the longest call may take. Then it is replaced.

A warm worker may still get a `/load` from a process that leased it before Redis was emptied. The worker refuses a
second target, and a token that is not above all earlier ones, so code of two functions never meets in it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable

import gevent

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators.base import OrchestratorAway, WorkerInfo
from qinling_falcon.orchestrators.gateways import make_gateway
from qinling_falcon.orchestrators.ping import ping
from qinling_falcon.pool.registry import Registry
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_PING_TIMEOUT_S = 2.0
_ASK_AGAIN_S = 0.5


class Adoption:
    """Asks unknown workers for their state, and registers or ends them.

    Args:
        registry: registers workers.
        end: ends a worker.
        settings: the longest time of a call, and how workers are reached.
    """

    def __init__(self, registry: Registry, end: Callable[[str], None], settings: Settings):
        self._registry = registry
        self._end = end
        self._gateway = make_gateway(settings)
        self._longest_call_s = (
            settings.unpack_timeout_s + settings.load_timeout_s + settings.max_timeout + settings.lease_grace_s
        )
        self._asking: set[str] = set()

    def adopt(self, workers: Iterable[WorkerInfo]) -> None:
        """Adopt or end workers. Waits until each one has answered once."""
        new = [worker for worker in workers if worker.worker_id not in self._asking]
        self._asking.update(worker.worker_id for worker in new)
        gevent.joinall([gevent.spawn(self._adopt, worker) for worker in new], timeout=2 * _PING_TIMEOUT_S)

    def _adopt(self, worker: WorkerInfo) -> None:
        try:
            state = ping(worker, _PING_TIMEOUT_S, self._gateway)
        except OrchestratorAway as error:
            logger.info("worker %s is adopted later: %s", worker.worker_id, error)
            self._asking.discard(worker.worker_id)
            return
        if state is not None and state.is_busy:
            gevent.spawn(self._outwait, worker)
            return
        try:
            if state is None or state.is_loaded:
                self._replace(worker)
                return
            self._registry.mark_ready(worker, worker.runtime_id, worker.image)
            logger.info("adopted a worker", extra={"worker_id": worker.worker_id, "runtime_id": worker.runtime_id})
        except Unavailable as error:
            logger.warning("worker %s is adopted later: %s", worker.worker_id, error)
        finally:
            self._asking.discard(worker.worker_id)

    def _outwait(self, worker: WorkerInfo) -> None:
        """Wait until the call of a worker has ended, and then replace the worker."""
        deadline = time.monotonic() + self._longest_call_s
        try:
            while time.monotonic() < deadline:
                gevent.sleep(_ASK_AGAIN_S)
                try:
                    state = ping(worker, _PING_TIMEOUT_S, self._gateway)
                except OrchestratorAway:
                    continue  # the call may still run
                if state is None or not state.is_busy:
                    break
            self._replace(worker)
        finally:
            self._asking.discard(worker.worker_id)

    def _replace(self, worker: WorkerInfo) -> None:
        logger.info("replaces a worker that can't be adopted", extra={"worker_id": worker.worker_id})
        self._end(worker.worker_id)
