"""The warm pool, for the pool manager: registers and removes workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gevent

from qinling_falcon.orchestrators.base import StartedWorker
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.pool.snapshot import read_snapshot
from qinling_falcon.pool.wire import PoolUnavailable
from qinling_falcon.settings import Settings


class Registry:
    """Registers workers and runtimes, and finds lost leases. All methods raise `PoolUnavailable` when Redis is away.

    Args:
        connection: the process's connection to Redis.
        settings: limits and times.
        clock: for tests.
    """

    def __init__(self, connection: PipelinedConnection, settings: Settings, *, clock: Clock | None = None):
        self._connection = connection
        self._scripts = ScriptRunner(connection, settings, clock)
        self._listening = connection.another()
        self._holder_ttl_ms = int(settings.holder_ttl_s * 1000)
        self._worker_idle_ms = int(settings.worker_idle_s * 1000)

    def configure(self, runtime_id: str, warm: int) -> None:
        """A runtime has a pool, which keeps `warm` workers ready. May be said again at any time."""
        self._scripts.run("configure", runtime_id, warm)

    def forget(self, runtime_id: str) -> None:
        """A runtime has no pool any more; its workers drain."""
        self._scripts.run("forget", runtime_id)

    def plan(self) -> dict[str, int]:
        """How many workers of each runtime to start now."""
        reply = iter(self._scripts.run("plan"))
        return {runtime.decode(): count for runtime, count in zip(reply, reply, strict=True)}

    def starting(self, worker_id: str, runtime_id: str, image: str = "") -> bool:
        """A worker is about to be started from `image`. False: don't, there is no room or no such pool."""
        return bool(self._scripts.run("starting", worker_id, runtime_id, image))

    def ready(self, worker: StartedWorker, runtime_id: str, image: str = "") -> None:
        """A worker answers. It may be `doomed` at once, when there is no place for it any more."""
        self._scripts.run("ready", worker.worker_id, runtime_id, image, worker.address, worker.secret)

    def roll(self, images: Mapping[str, str]) -> dict[str, int]:
        """Go one step on in replacing workers that were made from another image than their runtime's in `images`.

        Returns:
            By runtime, how many of another image may get a call yet.
        """
        reply = self._scripts.run("roll", *(word for pair in images.items() for word in pair))
        return dict(zip(images, reply, strict=True))

    def gone(self, worker_id: str) -> None:
        """A worker exists no longer. A lease that is lost by it is among the `lost` ones."""
        self._scripts.run("gone", worker_id)

    def reap(self) -> None:
        """End what nobody will end: lost leases, grants that were not accepted, workers idle for too long."""
        self._scripts.run("reap", self._holder_ttl_ms, self._worker_idle_ms)

    def lost(self) -> dict[str, str]:
        """The details of lost leases by execution id, each until it is `settled`."""
        reply = iter(self._connection.call("HGETALL", keys.LOST))
        return {execution.decode(): detail.decode() for execution, detail in zip(reply, reply, strict=True)}

    def settled(self, execution_ids: Sequence[str]) -> None:
        """The executions of these lost leases are recorded."""
        if execution_ids:
            self._connection.call("HDEL", keys.LOST, *execution_ids)

    def doomed(self) -> list[str]:
        """The workers that are draining and have no lease: destroy them, then say that they are `gone`."""
        return [worker.decode() for worker in self._connection.call("ZRANGE", keys.DRAINING, 0, -1)]

    def known(self) -> dict[str, str]:
        """The state of each worker that Redis knows; one that lives and is not among them belongs to nobody."""
        reply = iter(self._scripts.run("known"))
        return {worker.decode(): state.decode() for worker, state in zip(reply, reply, strict=True)}

    def wake(self) -> None:
        """End a wait for work, also one that begins later."""
        self._connection.call("RPUSH", keys.WAKEUPS, "1")

    def wait_for_work(self, timeout_s: float) -> None:
        """Wait until somebody wakes the manager, at most `timeout_s` (also when Redis is away)."""
        try:
            self._listening.call("BLPOP", keys.WAKEUPS, timeout_s, timeout_s=timeout_s + 3)
        except PoolUnavailable:
            gevent.sleep(timeout_s)

    def claim_manager(self, name: str, ttl_s: float) -> str:
        """Take or renew the claim of the active manager for `ttl_s`, unless another manager holds it.

        Returns:
            The name of the active manager.
        """
        active: str = self._scripts.run("claim", name, int(ttl_s * 1000)).decode()
        return active

    def resign_manager(self, name: str) -> None:
        """Give up the claim, if this manager holds it."""
        self._scripts.run("resign", name)

    def snapshot(self) -> dict[str, Any]:
        """Everything at one moment, by the names of docs/redis-keys.md (see `read_snapshot`)."""
        return read_snapshot(self._scripts.run("snapshot"))

    def close(self) -> None:
        """Close the connection that waits for work."""
        self._listening.close()
