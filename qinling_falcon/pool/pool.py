"""The warm pool, for the processes that run functions."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from typing import Any, cast

import gevent
from gevent.event import AsyncResult

from qinling_falcon.errors import Unavailable
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.generations import Generations
from qinling_falcon.pool.leases import Capacity, Cold, Lease, LeaseRequest, StaleTarget, Which
from qinling_falcon.pool.place import WorkersElsewhere, elsewhere
from qinling_falcon.pool.queue_bounds import QueueBounds
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.pool.waiting import News, WaitingRoom
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings

logger = logging.getLogger(__name__)

_GRANT_ON_ITS_WAY_S = 1.0  # no longer than a grant can be accepted
_HEARTBEATS_PER_TTL = 5


class Pool(Generations):
    """Leases workers, waits for them, and releases them.

    Make one per process, after forks, and `start` it before the first lease.

    Args:
        connection: the process's connection to Redis.
        holder: this process's name, which no other process has or had; without `/`.
        settings: limits and times.
        clock: for tests.
    """

    def __init__(
        self, connection: PipelinedConnection, holder: str, settings: Settings, *, clock: Clock | None = None
    ):
        self.holder = holder
        self._connection = connection
        super().__init__(ScriptRunner(connection, settings, clock))
        self._listening = connection.another()
        self._waiting = WaitingRoom(self._listening, self._scripts, holder)
        self._bounds = QueueBounds.of(settings)
        self._heartbeat_s = settings.holder_ttl_s / _HEARTBEATS_PER_TTL
        self._names = (f"{holder}/{number}" for number in itertools.count())
        self._held: set[str] = set()
        self._as_of: str = "0"
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Report to the reaper from now on, and listen for grants."""
        with contextlib.suppress(PoolUnavailable):
            self._beat()
        self._greenlets = [gevent.spawn(self._beat_on), gevent.spawn(self._waiting.listen)]

    def close(self) -> None:
        """Stop both. Leases that are still held will be lost when the holder was silent for its time to live."""
        gevent.killall(self._greenlets)
        self._greenlets = []
        self._listening.close()

    def lease(self, request: LeaseRequest, wait_s: float) -> Lease:
        """Lease a worker for `request`, waiting up to `wait_s` for one.

        Raises:
            StaleTarget: the target was resolved under an older generation.
            Unavailable: no worker was free in time, no place was left in the queue, or Redis is away
                (`PoolUnavailable`).
        """
        until = time.monotonic() + wait_s
        while True:
            waiter = next(self._names)
            place = self._waiting.enter(waiter)
            try:
                reply = self._ask(waiter, request, "fresh" if request.fresh else "any", until - time.monotonic())
                word = reply[0]
                if word == b"lease":
                    return self._hold(request, *(part.decode() for part in reply[1:]))
                if word == b"wait":
                    news = self._wait(waiter, place, until)
                    if news.word == "lease":
                        return self._hold(request, *news.lease)
                    word = news.word.encode()
            finally:
                self._waiting.leave(waiter)
            if word == b"stale":
                raise StaleTarget(request.target)
            if word == b"full":
                raise self._bounds.refusal(request, reply[1].decode(), int(reply[2]))
            if word == b"again":
                self._leave_quietly(waiter)
            if word != b"again" or time.monotonic() >= until:
                raise Unavailable("No worker was free in time; the function has not run. Try again.", retry_after_s=1)

    def lease_loaded(self, request: LeaseRequest) -> Lease | None:
        """Lease a worker that holds the target and is idle, if there is one. Nobody's worker makes room for that.

        Raises:
            StaleTarget: the target was resolved under an older generation.
            PoolUnavailable: Redis is away.
        """
        reply = self._ask(next(self._names), request, "loaded", 0.0)
        if reply[0] == b"stale":
            raise StaleTarget(request.target)
        return self._hold(request, *(part.decode() for part in reply[1:])) if reply[0] == b"lease" else None

    def give_back(self, lease: Lease) -> None:
        """End a lease whose worker was neither loaded nor called: what it was before, it is again.

        If Redis is away, the reaper ends the lease, and the worker.
        """
        self._waiting.decline(lease.worker_id, str(lease.token))
        self._held.discard(f"{lease.worker_id}:{lease.token}")

    def release(self, lease: Lease, *, destroy: bool = False) -> bool:
        """End a lease. With `destroy` its worker is not used again: its state is unknown.

        Returns:
            False when the lease was not ours any more: it was reaped, and its execution handed on as lost.

        Raises:
            PoolUnavailable: Redis is away; if the release didn't reach it, the reaper ends the lease.
        """
        try:
            return bool(self._scripts.run("release", lease.worker_id, lease.token, int(destroy)))
        finally:
            self._held.discard(f"{lease.worker_id}:{lease.token}")

    def release_soon(self, lease: Lease, *, destroy: bool = False) -> None:
        """End a lease whose execution is recorded, without waiting: if it goes wrong, the reaper ends the lease."""
        args = (lease.worker_id, lease.token, int(destroy))
        if self._scripts.cast("release", *args):  # a later heartbeat is sent after it
            self._held.discard(f"{lease.worker_id}:{lease.token}")
        else:
            gevent.spawn(self._release_later, lease, destroy)

    def abandon(self, lease: Lease) -> None:
        """Leave a lease to the reaper, which hands its execution on as lost."""
        self._held.discard(f"{lease.worker_id}:{lease.token}")

    def check_reach(self, lease: Lease) -> None:
        """Check that this process can reach a leased worker, before the first connection to it.

        Raises:
            WorkersElsewhere: the worker runs on another machine or in another network. Return the worker unused: it
                is healthy, and the processes there need it.
        """
        if not lease.address.startswith("127."):
            return
        with contextlib.suppress(PoolUnavailable):
            manager = self._connection.call("GET", keys.MANAGER)
            far = elsewhere(manager.decode()) if manager else None
            if far is not None:
                raise WorkersElsewhere(f"The function has not run. {far}", retry_after_s=5)

    def find(self, execution_id: str) -> str | None:
        """The detail of the live lease of an execution."""
        detail = self._scripts.run("find", execution_id)
        return None if detail is None else detail.decode()

    def drain(self, function_id: str, version: int | None = None) -> None:
        """The function's workers (of one version, or all) get no further call and end."""
        self._scripts.run("drain", f"{function_id}:" if version is None else f"{function_id}:{version}:")

    def shrink(self, function_id: str, version: int, count: int) -> int:
        """End up to `count` workers of one version, never the last: idle ones first, leased ones after their call.

        Returns:
            How many end.
        """
        return int(self._scripts.run("shrink", f"{function_id}:{version}:", count))

    def workers(self, function_id: str, version: int) -> list[str]:
        """Ids of the workers that hold one version and can get another call."""
        return sorted(worker.decode() for worker in self._scripts.run("workers", f"{function_id}:{version}:"))

    def capacity(self, runtime_id: str) -> Capacity | None:
        """How many workers a runtime has; None when it has no pool."""
        reply = self._scripts.run("capacity", runtime_id)
        return None if reply is None else Capacity(total=reply[0], available=reply[1])

    def wake(self) -> None:
        """Tell the pool manager that there is something to do: a runtime has come, changed or gone."""
        self._connection.call("RPUSH", keys.WAKEUPS, "1")

    def _release_later(self, lease: Lease, destroy: bool) -> None:
        with contextlib.suppress(PoolUnavailable):
            self.release(lease, destroy=destroy)

    def _ask(self, waiter: str, request: LeaseRequest, which: Which, wait_s: float) -> list[Any]:
        reply: list[Any] = self._scripts.run(
            "lease",
            waiter,
            self.holder,
            request.runtime_id,
            request.target,
            request.function_id,
            request.project_id,
            request.execution_id,
            int(request.run_s * 1000),
            request.detail,
            max(0, int(wait_s * 1000)),
            self._bounds.of_all,
            self._bounds.of_project,
            self._bounds.of_function,
            which,
            *itertools.chain.from_iterable(request.generations),
            abandoned=lambda reply: self._undo(waiter, reply),
        )
        return reply

    def _hold(
        self, request: LeaseRequest, worker: str, address: str, secret: str, token: str, cold: str, fresh: str
    ) -> Lease:
        self._held.add(f"{worker}:{token}")
        return Lease(
            worker_id=worker,
            address=address,
            secret=secret,
            token=int(token),
            execution_id=request.execution_id,
            target=request.target,
            runtime_id=request.runtime_id,
            cold=cast(Cold, cold),
            needs_load=fresh == "1",
        )

    def _wait(self, waiter: str, place: AsyncResult, until: float) -> News:
        try:
            try:
                return cast(News, place.get(timeout=max(0.0, until - time.monotonic())))
            except gevent.Timeout:
                if self._scripts.run("leave", waiter):
                    return News("late")
            try:  # it has been told something already, maybe that it has a worker
                return cast(News, place.get(timeout=_GRANT_ON_ITS_WAY_S))
            except gevent.Timeout:
                return News("late")
        except BaseException:
            gevent.spawn(self._walk_out, waiter, place)
            raise

    def _walk_out(self, waiter: str, place: AsyncResult) -> None:
        """The waiting greenlet was killed (or Redis is away): nothing may be left for it."""
        if place.ready() and place.value.word == "lease":
            self._waiting.decline(place.value.lease[0], place.value.lease[3])
        else:
            self._leave_quietly(waiter)

    def _leave_quietly(self, waiter: str) -> None:
        with contextlib.suppress(PoolUnavailable):
            self._scripts.run("leave", waiter)

    def _undo(self, waiter: str, reply: Any) -> None:
        """The answer to a lease came when its greenlet had gone."""
        if isinstance(reply, list) and reply[0] == b"lease":
            gevent.spawn(self._waiting.decline, reply[1].decode(), reply[4].decode())
        elif isinstance(reply, list) and reply[0] == b"wait":
            gevent.spawn(self._leave_quietly, waiter)

    def _beat_on(self) -> None:
        while True:
            gevent.sleep(self._heartbeat_s)
            try:
                self._beat()
            except PoolUnavailable:
                pass  # the next one comes soon
            except Exception:
                logger.exception("The pool's heartbeat failed")

    def _beat(self) -> None:
        now, unknown = self._scripts.run("heartbeat", self.holder, self._as_of, *self._held)
        self._as_of = now.decode()
        if unknown:
            self._waiting.tell_all(News("again"))
