"""Runs accepted executions: takes them from the ready sets, claims them, and gives each one to the engine.

A process has one `Drain`. The RQ job `drains.run` lets it take executions for some seconds. Executions that have
started go on after the job. The drain claims executions in batches, so that many share one commit, and runs each one in
its own greenlet. Executions of one function share workers (see `pool/local_queue.py`).

If the process dies, its claimed executions are queued again:

1. An execution with a lease: the reaper notices the silent process after `HOLDER_TTL_S` (see `invocation/losses.py`).
2. Any other one: its claim expires after `ASYNC_CLAIM_S`, and the sweep adds it to its ready set.
"""

from __future__ import annotations

import logging
import random
import time
from datetime import timedelta

import gevent
from gevent.event import Event

from qinling_falcon.errors import NotFound, NotRecorded, QinlingError, Unavailable
from qinling_falcon.invocation.attempts import Attempts
from qinling_falcon.invocation.calls import Accepted, Call
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.run_cancellation import Interrupted
from qinling_falcon.jobs.places import Places
from qinling_falcon.models import clock, execution_queue
from qinling_falcon.models.database import expect_writes
from qinling_falcon.models.execution_queue import ClaimedExecution
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.ready_sets import Taken
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

EXTENSIONS_PER_CLAIM = 4
"""How often a claim is extended within its duration."""
# The largest batch of executions that are claimed at once. A busy drain waits up to `_GATHER_S` until half as many have
# ended, because each claim is a commit.
_BATCH = 64
_GATHER_S = 0.02
# A commit of ends waits some milliseconds until one of this many executions in flight has ended.
_IN_FLIGHT_PER_COMMITTED_END = 4
_POLL_S = 1.0
_RETRY_S = 0.5
_NO_WORKER_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0
_RETRY_EXTEND_S = 0.2
_LONGEST_END_S = 10.0


class Drain:
    """The accepted executions that this process has claimed.

    Args:
        engine: runs them.
        pool: has the ready sets.
        attempts: queues executions again.
        settings: how many may be in flight.

    Attributes:
        is_stopping: whether it takes no more executions.
    """

    def __init__(self, engine: Engine, pool: Pool, attempts: Attempts, settings: Settings):
        self._engine = engine
        self._pool = pool
        self._attempts = attempts
        self._claim_s = settings.async_claim_s
        self._most = settings.async_concurrency
        self._in_flight: dict[str, tuple[Accepted, gevent.Greenlet]] = {}
        self._places = Places(self._most)
        self._is_database_away = False
        self._changed = Event()  # an execution has ended, or the ready sets have more
        self.is_stopping = False
        pool.on_notification("ready", self._changed.set)
        gevent.spawn(self._extend_claims)

    def run(self, for_s: float) -> None:
        """Take and start executions for `for_s` seconds, or until `stop_taking`."""
        until = time.monotonic() + for_s
        while not self.is_stopping and time.monotonic() < until:
            self._changed.clear()
            pause_s = min(self._start_some(), until - time.monotonic())
            if pause_s > 0:
                self._changed.wait(pause_s)

    def stop_taking(self) -> None:
        """Take no more executions. Those in flight run on."""
        self.is_stopping = True
        self._changed.set()

    def finish(self, grace_s: float) -> None:
        """Wait up to `grace_s` seconds for the executions in flight, then cancel the others and queue them again."""
        gevent.joinall([greenlet for _, greenlet in self._in_flight.values()], timeout=grace_s)
        for execution_id in list(self._in_flight):
            gevent.spawn(self._interrupt, execution_id)
        # If the database is away, ends can't be recorded. These executions are queued again later, see above.
        gevent.joinall([greenlet for _, greenlet in self._in_flight.values()], timeout=_LONGEST_END_S)

    def _start_some(self) -> float:
        """Start executions for which there is room. Returns for how many seconds nothing more can be done."""
        if len(self._in_flight) > self._most / 4:
            self._wait_for_ends()
        most = min(_BATCH, self._places.free)
        if most == 0:
            return _POLL_S
        try:
            if self._is_database_away:  # what is taken and can't be claimed is missing until the sweep adds it
                execution_queue.check()
                self._is_database_away = False
            if self.is_stopping:  # since the waits above
                return 0.0
            claimed_until = time.monotonic() + self._claim_s
            taken = self._pool.ready.take(most, self._places.rooms())
            claimed = self._claim(taken)
        except Unavailable as error:
            logger.warning("executions can't be claimed", extra={"reason": str(error)})
            self._is_database_away = not isinstance(error, PoolUnavailable)
            return _RETRY_S
        for one in claimed:
            self._start(one, claimed_until)
        if len(taken.ids) == most:
            return 0.0
        return _POLL_S if taken.next_s is None else min(_POLL_S, taken.next_s)

    def _wait_for_ends(self) -> None:
        enough = len(self._in_flight) - _BATCH // 2
        until = time.monotonic() + _GATHER_S
        while not self.is_stopping and len(self._in_flight) > enough and (left_s := until - time.monotonic()) > 0:
            self._changed.clear()
            self._changed.wait(left_s)

    def _claim(self, taken: Taken) -> list[ClaimedExecution]:
        """Claim what was taken. If that fails, the sweep puts it back into the ready sets."""
        now = clock.wall()
        # A claim that was not extended in time may have expired while its execution still runs here.
        ids = [execution_id for execution_id in taken.ids if execution_id not in self._in_flight]
        return execution_queue.claim(ids, now, now + timedelta(seconds=self._claim_s))

    def _start(self, claimed: ClaimedExecution, claimed_until: float) -> None:
        accepted = Accepted(
            claimed.id,
            claimed.project_id,
            claimed.function_id,
            claimed.created_at,
            claimed.attempt,
            claimed.claim,
            claimed.failures,
            clock.from_micros(claimed.since) if claimed.since else None,
            claimed_until,
            due_at=clock.from_micros(claimed.due_at),
        )
        self._places.take(claimed.project_id, claimed.function_id, claimed.input)
        self._in_flight[claimed.id] = accepted, gevent.spawn(self._run, claimed, accepted)
        expect_writes(len(self._in_flight) // _IN_FLIGHT_PER_COMMITTED_END)

    def _run(self, claimed: ClaimedExecution, accepted: Accepted) -> None:
        try:
            self._serve(claimed, accepted)
        except Interrupted:  # before it had a worker
            self._give_back(accepted)
        except Unavailable as error:
            logger.warning(
                "execution not released; its claim expires", extra={"execution_id": claimed.id, "reason": str(error)}
            )
        finally:
            del self._in_flight[claimed.id]  # no second claim of it was made meanwhile, see `_claim`
            self._places.give_back(claimed.project_id, claimed.function_id, claimed.input)
            expect_writes(len(self._in_flight) // _IN_FLIGHT_PER_COMMITTED_END)
            self._changed.set()

    def _serve(self, claimed: ClaimedExecution, accepted: Accepted) -> None:
        """Run an execution. One that could not be run is queued again, or ends if its function is gone."""
        call = Call(
            function_id=claimed.function_id,
            function_version=claimed.function_version,
            input=claimed.input,
            request_id=claimed.request_id or "",
            source=claimed.source,
            webhook_id=claimed.webhook_id,
            job_id=claimed.job_id,
        )
        try:
            self._engine.run(call, accepted)
        except NotRecorded as error:
            logger.warning("an execution is not recorded", extra={"execution_id": claimed.id, "reason": str(error)})
        except NotFound as error:
            execution_queue.cancel(claimed, f"It has not run: {error.message}")
            self._pool.ended.notify((claimed.id,))
        except Unavailable as error:
            logger.debug("an execution waits", extra={"execution_id": claimed.id, "reason": str(error)})
            self._attempts.give_back(accepted, clock.wall() + _pause(claimed), was_started=False)
        except QinlingError as error:  # it can't be run now, and its function's maximum age is not known
            logger.debug("an execution waits", extra={"execution_id": claimed.id, "reason": str(error)})
            self._attempts.wait(claimed, accepted, clock.wall() + _pause(claimed), error.message)
        except Interrupted:
            raise
        except Exception as error:
            logger.exception("an execution was not run", extra={"execution_id": claimed.id})
            self._attempts.wait(claimed, accepted, clock.wall() + _pause(claimed), str(error))

    def _give_back(self, accepted: Accepted) -> None:
        try:
            self._attempts.give_back(accepted, clock.wall(), was_started=False)
        except Unavailable as error:  # the claim ends by itself
            logger.warning(
                "execution not released; its claim expires", extra={"execution_id": accepted.id, "reason": str(error)}
            )

    def _interrupt(self, execution_id: str) -> None:
        """End an execution because this process stops or has lost its claim. If the claim is valid, it is queued again.
        """
        try:
            self._engine.cancel(execution_id)
        except Exception as error:
            logger.warning("an execution was not ended", extra={"execution_id": execution_id, "reason": str(error)})

    def _extend_claims(self) -> None:
        while True:
            gevent.sleep(self._claim_s / EXTENSIONS_PER_CLAIM)
            while not self._extend():
                gevent.sleep(_RETRY_EXTEND_S)

    def _extend(self) -> bool:
        """Extend the claims of the executions in flight. Returns False if the database is away."""
        in_flight = [accepted for accepted, _ in self._in_flight.values()]
        claimed_until = time.monotonic() + self._claim_s
        claims = {accepted.id: accepted.claim for accepted in in_flight}
        try:
            extended = execution_queue.extend(claims, clock.wall() + timedelta(seconds=self._claim_s))
        except Unavailable as error:
            logger.warning("claims could not be extended", extra={"reason": str(error)})
            return False
        except Exception:
            logger.exception("claims could not be extended")
            return True
        for accepted in in_flight:
            if accepted.id in extended:
                accepted.claimed_until = claimed_until
            elif accepted.id in self._in_flight and self._in_flight[accepted.id][0] is accepted:
                # Another process may have claimed it. If it has ended here, this changes nothing.
                gevent.spawn(self._interrupt, accepted.id)
        return True


def _pause(claimed: ClaimedExecution) -> timedelta:
    """The pause of an execution that got no worker: half of the time that it has waited, 1 to 30 s, less jitter."""
    waited_s = (clock.wall() - clock.from_micros(claimed.due_at)).total_seconds()
    longest_s = min(_LONGEST_PAUSE_S, max(_NO_WORKER_PAUSE_S, waited_s / 2))
    return timedelta(seconds=random.uniform(longest_s / 2, longest_s))
