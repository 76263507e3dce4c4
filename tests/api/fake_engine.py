"""The real engine over fake workers, for tests of what comes before and after it."""

from __future__ import annotations

import time
from typing import Any, cast

from qinling_falcon.invocation.call_keys import CallKey
from qinling_falcon.invocation.calls import Call
from qinling_falcon.invocation.engine import Engine
from qinling_falcon.invocation.targets import Resolver
from qinling_falcon.invocation.worker_client import Execution, Ran, WorkerClient
from qinling_falcon.models.records import ExecutionRecord
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.leases import Lease, LeasedWorker, LeaseRequest, StaleTarget
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.package_cache import PackageCache

WORKER = LeasedWorker("w", "127.0.0.1:1", "secret", 1, needs_load=False)


class FakeEngine(Engine):
    """Resolves and records as the engine does. Every call succeeds.

    Attributes:
        calls: what it was asked for.
        error: what the next calls raise instead.
    """

    def __init__(self, pool: Pool, packages: PackageCache, settings: Settings) -> None:
        workers = cast(Pool, FakeWorkers(pool))
        super().__init__(workers, Resolver(pool), packages, settings, workers=FakeClient(settings))
        self.calls: list[Call] = []
        self.error: Exception | None = None

    def invoke(self, context: Context, call: Call, key: CallKey | None = None) -> ExecutionRecord:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return super().invoke(context, call, key)


class FakeWorkers:
    """Stands for a pool in which every target has an idle worker, and for what ends its leases."""

    def __init__(self, pool: Pool):
        self._pool = pool
        self.ready, self.ended = pool.ready, pool.ended

    def lease_loaded(self, request: LeaseRequest) -> Lease:
        if self._pool.generations([what for what, _ in request.generations]) != dict(request.generations):
            raise StaleTarget(request.target)
        since = time.monotonic()
        return Lease(cast(Any, self), WORKER, request.execution_id, request.queue, "none", since, is_journaled=True)

    def hand_over(self, lease: Lease, *, destroy: bool, busy_s: float | None) -> None:
        assert not destroy

    def acknowledge(self, execution_id: str) -> None:
        pass

    def return_unused(self, lease: Lease) -> None:
        pass

    def abandon(self, lease: Lease, *, worker: bool) -> None:
        pass


class FakeClient(WorkerClient):
    """A worker that runs the same function, whatever it is asked for."""

    def knows(self, worker: LeasedWorker) -> bool:
        return True

    def execute(self, worker: LeasedWorker, execution: Execution, timeout_s: float) -> Ran:
        result, log = '{"duration": 0.044, "output": "Hello"}', "Start execution: x\nHällo\nFinished execution: x\n"
        return Ran("success", None, result, log, 0.044)
