"""The pool manager: keeps the pool's records in Redis and the workers of the orchestrator in agreement.

There are two kinds of passes:

1. A growth pass runs whenever a queue wants one more worker, or a worker has come or gone. It starts workers and evicts
   others for them, by the policy. It reads a bounded part of the pool.
2. A full pass runs every `REAP_INTERVAL_S`, and when a runtime was changed. It compares Redis, the orchestrator and the
   rows of runtimes, and acts on the differences. So the recovery from a crash (of this process, Redis, a worker, or all
   of them) is a pass like any other.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import gevent
from gevent.event import Event

from qinling_falcon.errors import Unavailable
from qinling_falcon.orchestrators.base import Happening, Orchestrator, OrchestratorAway, WorkerInfo
from qinling_falcon.pool.adoption import Adoption
from qinling_falcon.pool.claim import Claim
from qinling_falcon.pool.policy import Policy
from qinling_falcon.pool.registry import Registry, WorkerRecord
from qinling_falcon.pool.runtimes import Runtimes
from qinling_falcon.pool.single_use import Orphans
from qinling_falcon.pool.starter import Starter
from qinling_falcon.pool.starts import Starts
from qinling_falcon.pool.view import View
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

# The cost of a start until one was measured, by this manager or an earlier one.
_FIRST_START_MS = 20.0
# A worker that has lost executions and has not ended is logged so often.
_LOG_EVERY_S = 10.0
_DESCRIBE_EVERY_S = 5.0


class Manager:
    """Starts, ends and replaces the workers of one orchestrator.

    Args:
        claim: decides which manager is active. Only the active manager has workers.
        record_lost: records executions whose lease was lost (details by execution id), and returns the ids of those
            that are recorded. It is called again later for the others, and if it raises `Unavailable`.
    """

    def __init__(
        self,
        registry: Registry,
        orchestrator: Orchestrator,
        runtimes: Runtimes,
        settings: Settings,
        record_lost: Callable[[Mapping[str, str]], Sequence[str]],
        claim: Claim,
    ):
        self._registry = registry
        self._orchestrator = orchestrator
        self._runtimes = runtimes
        self._settings = settings
        self._record_lost = record_lost
        # Workers that are being ended by a greenlet of this process.
        self._ending: set[str] = set()
        # Workers that may still run lost executions, each with the time until which nothing is logged about it.
        self._awaited: dict[str, float] = {}
        self._max_workers = settings.max_workers or orchestrator.most_workers
        self._policy = Policy(self._max_workers, orchestrator.concurrent_starts, _FIRST_START_MS)
        self._starts = Starts(orchestrator.concurrent_starts, lambda: self._policy.start_ms)
        self._starter = Starter(registry, orchestrator, runtimes, self._starts, self._policy)
        self._adoption = Adoption(registry, lambda worker_id: self._end_workers([worker_id]), settings)
        self._orphans = Orphans(registry, lambda worker_id: self._end_workers([worker_id]), settings.holder_ttl_s)
        self._full_pass_at = 0.0
        self._look_again_at = math.inf
        self._describe_at = 0.0
        self._was_away = False
        self._is_new = True
        self._is_crowded = True
        self._claim = claim

    def run(self, stopping: Event) -> None:
        """Run passes until `stopping` is set, then end all workers, unless they outlive their manager."""
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
                    work = gevent.spawn(self._wait_for_work)
                    gevent.wait([work, stopping], count=1)
                else:
                    self._stand_by()
                    stopping.wait(self._settings.reap_interval_s)
                if not healthy:
                    logger.info("the pool manager is back at work")
                healthy = True
            except Unavailable as error:
                if healthy:
                    logger.warning("the pool manager waits: %s", error)
                healthy = False
                self._full_pass_at = 0.0  # a growth pass may succeed, and does not show that all is well again
                stopping.wait(0.2)
            except Exception:
                # An unexpected error must not end this process, because local workers would end with it.
                logger.exception("a pass of the pool manager failed")
                stopping.wait(self._settings.reap_interval_s)

    def _stand_by(self) -> None:
        """End the workers of this manager, because another one is active. Workers that outlive their manager stay."""
        self._is_new = True
        if self._orchestrator.workers_outlive_manager:
            self._orchestrator.events()  # they are for the other manager
        else:
            self._end_workers(worker.worker_id for worker in self._orchestrator.list())

    def _wait_for_work(self) -> None:
        until = min(self._full_pass_at, self._look_again_at)
        if self._registry.wait_for_work(max(0.01, until - time.monotonic())):
            self._full_pass_at = 0.0

    def _pass(self) -> None:
        if time.monotonic() < self._full_pass_at:
            if self._starts.free_slots > 0 or self._is_crowded:
                self._grow()
            return
        if self._is_new:
            self._policy.start_ms = self._registry.start_ms() or self._policy.start_ms
            self._registry.delete_other_libraries()
            self._is_new = False
        self._grow()  # first, because a call may wait for it
        self._full_pass_at = time.monotonic() + self._settings.reap_interval_s
        limit = self._orchestrator.limit()
        self._policy.max_workers = self._max_workers if limit is None else min(self._max_workers, limit)
        self._registry.set_limits(self._policy.max_workers, self._policy.start_ms)
        self._registry.reap(self._policy.stocks)
        workers, unknown = self._reconcile()
        self._record_lost_executions()
        stocks = {runtime_id: self._policy.stocks.get(runtime_id, 0) for runtime_id in self._registry.runtimes()}
        is_crowded = len(workers) >= self._policy.max_workers
        self._describe_host()
        trials = self._runtimes.reconcile(stocks, workers.values(), is_crowded=is_crowded)
        self._prepare_starts()
        for trial in trials:
            if trial.runtime_id not in self._starter.trials and self._starts.free_trial_slots > 0:
                self._starter.begin_trial(trial)
        # This comes after the reconciliation of runtimes, which configures their pools if Redis was emptied.
        self._adoption.adopt(unknown)
        self._grow()

    def _describe_host(self) -> None:
        """Write how workers are confined and made, for the operator."""
        is_away = self._is_server_away()
        if time.monotonic() >= self._describe_at or is_away != self._was_away:
            self._registry.describe_host(self._orchestrator.confinement(), self._orchestrator.server())
            self._describe_at, self._was_away = time.monotonic() + _DESCRIBE_EVERY_S, is_away

    def _is_server_away(self) -> bool:
        server = self._orchestrator.server()
        return server is not None and server.away_since is not None

    def _prepare_starts(self) -> None:
        try:
            self._orchestrator.prepare(self._runtimes.wanted)
        except OrchestratorAway as error:
            logger.info("starts are prepared later: %s", error)

    def _grow(self) -> None:
        """Start, evict and recall workers as the policy decides, and end those that drain.

        While the orchestrator's server is away, nothing is done. An evicted worker could not be replaced.
        """
        if self._is_server_away():
            self._look_again_at = time.monotonic() + self._settings.reap_interval_s
            return
        view = self._registry.view()
        self._is_crowded = view.workers + 2 * self._orchestrator.concurrent_starts > self._policy.max_workers
        decision = self._policy.decide(view, max(0, self._starts.free_slots), self._unable_to_start(view))
        for runtime_id in decision.starts:
            image = self._runtimes.images[runtime_id]
            if not self._starts.must_wait(runtime_id, image):  # because of a start that began just before
                self._starter.begin(runtime_id, image)
        for eviction in decision.evictions:
            if self._registry.evict(eviction.worker, eviction.unused_ms, eviction.reason):
                logger.info("evicted a worker", extra={"worker_id": eviction.worker, "reason": eviction.reason})
        for recall in decision.recalls:
            if self._registry.recall(recall.worker, recall.stands_ms, recall.reason):
                logger.info("recalled a worker", extra={"worker_id": recall.worker, "reason": recall.reason})
        for worker_id in decision.taken_back:
            self._registry.recall(worker_id, 0)
        self._look_again_at = time.monotonic() + decision.look_again_ms / 1000
        alive = {worker.worker_id for worker in self._orchestrator.list()}
        self._end_workers(alive.intersection(self._registry.draining()))

    def _unable_to_start(self, view: View) -> set[str]:
        """The runtimes whose workers can't be started now.

        There are three kinds: those without an image, those on trial, and those of which a start has failed or hangs
        (see `Starts`).
        """
        unable = {runtime.id for runtime in view.runtimes} - self._runtimes.images.keys()
        for runtime_id, image in self._runtimes.images.items():
            # The worker of a trial is one of the missing workers, so no other one is started.
            is_on_trial = self._starter.trials.get(runtime_id) == image
            if is_on_trial or self._starts.must_wait(runtime_id, image):
                unable.add(runtime_id)
        return unable

    def _reconcile(self) -> tuple[dict[str, WorkerRecord], list[WorkerInfo]]:
        """Remove workers that only the registry or only the orchestrator knows, and those whose start was given up.

        Returns:
            The workers that the registry knows, and the live workers that are to be adopted.
        """
        self._note_events()
        starting = self._starts.workers
        known = self._registry.workers()
        starting |= self._starts.workers  # because starts may have begun or ended meanwhile
        alive = {worker.worker_id: worker for worker in self._orchestrator.list()}
        # The orchestrator may not list a worker that is being ended. It is removed when it has ended, see `_end`.
        for worker_id in known.keys() - alive.keys() - starting - self._ending:
            # A process leases a single-use worker before it makes it, and drains it afterwards in any case.
            if not known[worker_id].is_single_use or known[worker_id].state == "draining":
                self._registry.remove(worker_id)
        draining = {worker_id for worker_id, worker in known.items() if worker.state == "draining"}
        # The manager died, or Redis was away, before `mark_ready` was called for these workers.
        given_up = {worker_id for worker_id, worker in known.items() if worker.state == "starting"} - starting
        unknown = (alive.keys() - known.keys() - starting) | (alive.keys() & given_up)
        self._end_workers(alive.keys() & draining)
        if not self._orchestrator.workers_outlive_manager:
            self._end_workers(unknown)
            return known, []
        found = [alive[worker_id] for worker_id in unknown - self._ending]
        self._orphans.check(worker for worker in found if worker.single_use is not None)
        return known, [worker for worker in found if worker.single_use is None]

    def _note_events(self) -> None:
        for event in self._orchestrator.events():
            extra = {"worker_id": event.worker_id, "reason": event.reason}
            match event.happening:
                case Happening.ENDED:
                    logger.warning("a worker ended by itself", extra=extra)
                    self._registry.remove(event.worker_id, event.reason)
                case Happening.FAILED:
                    logger.warning("a worker failed", extra=extra)
                    self._registry.remove(event.worker_id, event.reason)
                    self._end_workers([event.worker_id])
                case Happening.CHANGED:
                    logger.warning("a worker has changed, and gets no further call", extra=extra)
                    self._registry.drain([event.worker_id], event.reason)

    def _end_workers(self, worker_ids: Iterable[str]) -> None:
        for worker_id in worker_ids:
            if worker_id not in self._ending:
                self._ending.add(worker_id)
                gevent.spawn(self._end, worker_id)

    def _record_lost_executions(self, *, are_gone: bool = False) -> None:
        """Record lost executions whose worker is gone. An accepted one may then start again at once.

        The others stay in Redis until a later pass, because two runs of an execution must not overlap.

        Args:
            are_gone: whether all workers of the orchestrator are gone.
        """
        lost = self._registry.lost()
        # After the reply: a worker that is neither listed nor being ended now is gone for good.
        alive = set() if are_gone else {worker.worker_id for worker in self._orchestrator.list()} | self._ending
        details = {execution: it.detail for execution, it in lost.items() if it.worker_id not in alive}
        self._await_workers({it.worker_id for it in lost.values()} & alive)
        if details:
            recorded = self._record_lost(details)
            self._registry.acknowledge_lost(recorded)
            if recorded:
                logger.warning("recorded lost executions: %s", ", ".join(recorded))

    def _await_workers(self, worker_ids: set[str]) -> None:
        """Note the workers for whose end lost executions wait: it wakes the manager. Log those that do not end."""
        now = time.monotonic()
        self._awaited = {worker_id: self._awaited.get(worker_id, now + _LOG_EVERY_S) for worker_id in worker_ids}
        for worker_id, quiet_until in self._awaited.items():
            if quiet_until <= now:
                logger.error("lost executions wait for a worker that does not end", extra={"worker_id": worker_id})
                self._awaited[worker_id] = now + _LOG_EVERY_S

    def _end(self, worker_id: str) -> None:
        try:
            self._orchestrator.destroy(worker_id)
            self._registry.remove(worker_id)
            # The next worker can be replaced now, or the lost executions of this one be recorded.
            if self._runtimes.rolling or worker_id in self._awaited:
                self._registry.wake()
        except OrchestratorAway as error:
            logger.warning("worker %s is ended later: %s", worker_id, error)
        except Unavailable as error:
            logger.warning("worker %s is gone; the pool will hear of it later: %s", worker_id, error)
        finally:
            self._ending.discard(worker_id)

    def _close(self) -> None:
        self._orchestrator.detach()
        if not self._claim.held:
            return  # the workers in Redis belong to another manager
        try:
            if not self._orchestrator.workers_outlive_manager:
                for worker_id in self._registry.workers():
                    self._registry.remove(worker_id)
            self._record_lost_executions(are_gone=not self._orchestrator.workers_outlive_manager)
            self._claim.resign()
        except Unavailable as error:
            logger.warning("ended with the pool's records as they are; the next manager clears them: %s", error)
