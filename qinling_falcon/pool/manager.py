"""The pool manager: keeps the pool's records in Redis and the workers of the orchestrator in agreement.

Each pass compares the two and acts on the differences. It keeps no state between
passes, so a pass after a crash (of this process, Redis, a worker, or all of them)
is like any other. A pass takes a few Redis round trips and one SELECT. It runs
every `REAP_INTERVAL_S`, or at once when the pool is short of workers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping

import gevent
from gevent.event import Event
from gevent.lock import BoundedSemaphore

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators.base import Orchestrator, StartedWorker, StartFailed, UnknownImage
from qinling_falcon.pool.claim import Claim
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runtimes import Runtimes, Trial
from qinling_falcon.settings import Settings

log = logging.getLogger(__name__)

_LONGEST_BACKOFF_S = 30.0


class Manager:
    """Starts, ends and replaces the workers of one orchestrator.

    Args:
        claim: decides which manager is active. Only the active manager has workers.
        record_lost: records executions whose lease was lost (details by execution id). If it raises `Unavailable`,
            it is called again later.
    """

    def __init__(
        self,
        registry: Registry,
        orchestrator: Orchestrator,
        runtimes: Runtimes,
        settings: Settings,
        record_lost: Callable[[Mapping[str, str]], None],
        claim: Claim,
    ):
        self._registry = registry
        self._orchestrator = orchestrator
        self._runtimes = runtimes
        self._settings = settings
        self._record_lost = record_lost
        # Workers that are being started or ended by a greenlet of this process, and images on trial by runtime.
        self._starting: set[str] = set()
        self._ending: set[str] = set()
        self._trials: dict[str, str] = {}
        self._retry_at: dict[tuple[str, str], float] = {}
        self._starts = BoundedSemaphore(os.cpu_count() or 1)
        self._claim = claim

    def run(self, stopping: Event) -> None:
        """Run passes until `stopping` is set, then end all workers."""
        try:
            self._work(stopping)
            self._close()
        finally:
            self._claim.lapse()

    def _work(self, stopping: Event) -> None:
        healthy = True
        while not stopping.is_set():
            try:
                if self._claim.take():
                    self._pass()
                    work = gevent.spawn(self._registry.wait_for_work, self._settings.reap_interval_s)
                    gevent.wait([work, stopping], count=1)
                else:
                    self._end_all()
                    stopping.wait(self._settings.reap_interval_s)
                if not healthy:
                    log.info("the pool manager is back at work")
                healthy = True
            except Unavailable as error:
                if healthy:
                    log.warning("the pool manager waits: %s", error)
                healthy = False
                stopping.wait(0.2)
            except Exception:
                # A worker or row that nobody foresaw must not end all others, as the end of this process would.
                log.exception("a pass of the pool manager failed")
                stopping.wait(self._settings.reap_interval_s)

    def _end_all(self) -> None:
        """End all workers of this manager, because another manager is active and has removed them from Redis."""
        for worker_id in self._orchestrator.workers():
            if worker_id not in self._ending:
                self._ending.add(worker_id)
                gevent.spawn(self._end, worker_id)

    def _pass(self) -> None:
        self._start_missing()  # first, because a call may wait for it
        self._registry.reap()
        self._reconcile()
        self._settle_lost()
        for trial in self._runtimes.reconcile(self._registry.plan().keys()):
            if trial.runtime_id not in self._trials:
                self._trials[trial.runtime_id] = trial.image
                gevent.spawn(self._try_image, trial)
        self._start_missing()

    def _start_missing(self) -> None:
        """Begin to start the workers that the pool lacks, for all runtimes whose image is known."""
        for runtime_id, count in self._registry.plan().items():
            image = self._runtimes.images.get(runtime_id)
            if self._trials.get(runtime_id) == image:
                continue  # the image is proved just now, and the worker that did so is one of those that are missing
            if image is not None and time.monotonic() >= self._retry_at.get((runtime_id, image), 0.0):
                for _ in range(count):
                    self._begin_start(runtime_id, image)

    def _reconcile(self) -> None:
        """Make registry and orchestrator agree: what is in one of them alone goes, and what nobody starts any more."""
        for worker_id in self._orchestrator.exited():
            log.warning("worker %s ended by itself", worker_id)
            self._registry.gone(worker_id)
        starting = set(self._starting)
        known = self._registry.known()
        starting |= self._starting  # some of them may have come or gone while we asked
        alive = set(self._orchestrator.workers())
        for worker_id in known.keys() - alive - starting:
            self._registry.gone(worker_id)
        doomed = {worker_id for worker_id, state in known.items() if state == "draining"}
        # Its manager died, or Redis was away, before the worker was said to be ready.
        forsaken = {worker_id for worker_id, state in known.items() if state == "starting"} - starting
        for worker_id in (alive - known.keys() - starting) | (alive & (doomed | forsaken)):
            if worker_id not in self._ending:
                self._ending.add(worker_id)
                gevent.spawn(self._end, worker_id)

    def _settle_lost(self) -> None:
        lost = self._registry.lost()
        if lost:
            self._record_lost(lost)
            self._registry.settled(list(lost))
            log.warning("recorded lost executions: %s", ", ".join(lost))

    def _begin_start(self, runtime_id: str, image: str) -> None:
        worker_id = str(uuid.uuid4())
        if self._registry.starting(worker_id, runtime_id, image):
            self._starting.add(worker_id)
            gevent.spawn(self._start, worker_id, runtime_id, image)

    def _start(self, worker_id: str, runtime_id: str, image: str) -> None:
        try:
            with self._starts:
                worker = self._start_wanted(worker_id, runtime_id, image)
            if worker is not None:
                self._registry.ready(worker, runtime_id, image)
                self._runtimes.started(runtime_id, image)
                self._retry_at.pop((runtime_id, image), None)
            else:
                self._registry.gone(worker_id)
            self._roll_on()
        except (UnknownImage, StartFailed) as error:
            failures = self._runtimes.start_failed(runtime_id, image)
            self._retry_at[runtime_id, image] = time.monotonic() + min(_LONGEST_BACKOFF_S, 0.25 * 2**failures)
            log.warning("a worker of runtime %s did not start (%d in a row): %s", runtime_id, failures, error)
        except Unavailable as error:
            log.warning("worker %s could not be made known: %s", worker_id, error)
        finally:
            # From here on a pass finds it in registry and orchestrator, or ends what is in one of them alone.
            self._starting.discard(worker_id)

    def _start_wanted(self, worker_id: str, runtime_id: str, image: str) -> StartedWorker | None:
        """Start a worker; None when its image was replaced meanwhile, and nothing of it is left then."""
        if self._runtimes.images.get(runtime_id) == image:
            worker = self._orchestrator.start(worker_id, image)
            if self._runtimes.images.get(runtime_id) == image:
                return worker
        self._orchestrator.destroy(worker_id)
        return None

    def _roll_on(self) -> None:
        """A worker has come or gone: where workers are being replaced, the next one has its turn now."""
        if self._runtimes.rolling:
            self._registry.wake()

    def _try_image(self, trial: Trial) -> None:
        """Start one worker from an image that is on trial; if it answers, it is the first to serve."""
        worker_id = str(uuid.uuid4())
        self._starting.add(worker_id)
        try:
            with self._starts:
                worker = self._orchestrator.start(worker_id, trial.image)
            is_wanted = self._runtimes.proved(trial)
            if is_wanted and self._registry.starting(worker_id, trial.runtime_id, trial.image):
                self._registry.ready(worker, trial.runtime_id, trial.image)
        except (UnknownImage, StartFailed) as error:
            log.warning("image %s of runtime %s failed: %s", trial.image, trial.runtime_id, error)
            with contextlib.suppress(Unavailable):
                self._runtimes.refuted(trial, error)
        except Unavailable as error:
            log.warning("image %s of runtime %s is tried again: %s", trial.image, trial.runtime_id, error)
        finally:
            self._starting.discard(worker_id)
            self._trials.pop(trial.runtime_id)
        with contextlib.suppress(Unavailable):
            self._roll_on()

    def _end(self, worker_id: str) -> None:
        try:
            self._orchestrator.destroy(worker_id)
            self._registry.gone(worker_id)
            self._roll_on()
        except Unavailable as error:
            log.warning("worker %s is gone; the pool will hear of it later: %s", worker_id, error)
        finally:
            self._ending.discard(worker_id)

    def _close(self) -> None:
        self._orchestrator.close()
        if not self._claim.held:
            return  # the workers in Redis belong to another manager
        try:
            for worker_id in self._registry.known():
                self._registry.gone(worker_id)
            self._settle_lost()
            self._claim.resign()
        except Unavailable as error:
            log.warning("ended with the pool's records as they are; the next manager clears them: %s", error)
