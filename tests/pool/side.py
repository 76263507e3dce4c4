"""A process that leases workers, and a registry through which a test registers them, for tests of the pool."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import gevent

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.leases import Lease, LeaseRequest
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.settings import Settings

LIMITS = Settings(
    max_workers=6, function_concurrency=4, function_queue_factor=10, project_concurrency=5, project_queue_factor=20,
    max_waiters=200, holder_ttl_s=3.0,
)  # fmt: skip
START_MS = 20.0


class Side:
    """The pool of a process that leases workers, and the registry of the pool manager, on one Valkey."""

    def __init__(self, url: str, settings: Settings = LIMITS, holder: str = "web-1"):
        self.settings = settings
        self.connection = PipelinedConnection(url, timeout_s=2)
        self.pool = Pool(self.connection, holder, settings)
        self.pool.start()
        self.registry = Registry(PipelinedConnection(url, timeout_s=2), settings)
        self.names = (f"w{number}" for number in itertools.count())
        self.executions = (f"{holder}-e{number}" for number in itertools.count())

    def close(self) -> None:
        self.pool.close()
        self.registry.close()
        self.connection.close()

    def configure(self, warm: int = 2) -> None:
        """Configure the runtime's pool and the limits, as a manager does first."""
        self.registry.configure("python3", warm)
        self.registry.set_limits(self.settings.max_workers, START_MS)

    def start(self, runtime: str = "python3") -> str:
        name = next(self.names)
        assert self.registry.register(name, runtime)
        self.registry.mark_ready(WorkerInfo(name, f"127.0.0.1:{name}", f"secret of {name}"), runtime)
        return name

    def request(self, function: str = "f", version: int = 0, project: str = "p", **changes: Any) -> LeaseRequest:
        key = f"function:{function}"
        execution = next(self.executions)
        request = LeaseRequest(
            target=f"{function}:{version}:digest",
            runtime_id="python3",
            function_id=function,
            project_id=project,
            execution_id=execution,
            generations=tuple(self.pool.generations([key]).items()),
            run_s=30,
            detail=f"detail of {execution}",
        )
        return request._replace(**changes)

    def lease(self, function: str = "f", wait_s: float = 5, **changes: Any) -> Lease:
        return self.pool.lease(self.request(function, **changes), wait_s)

    def run(self, function: str = "f", wait_s: float = 5, **changes: Any) -> Lease:
        """A call from its lease to its commit."""
        lease = self.lease(function, wait_s, **changes)
        end(lease)
        return lease

    def waiting(self, **changes: Any) -> gevent.Greenlet:
        """Start a call that waits, until Redis knows that it does (or has given it a worker)."""
        request = self.request(**changes)
        before = self.in_redis(request)
        caller = gevent.spawn(self.pool.lease, request, 20)
        wait_until(lambda: caller.ready() or self.in_redis(request) > before)
        return caller

    def in_redis(self, request: LeaseRequest) -> int:
        """How many calls wait in the queue of a request, as Redis knows."""
        return sum(int(count) for count in self.registry.snapshot().get(f"counts:{request.queue}", {}).values())

    def all_waiting(self) -> int:
        return int(self.registry.snapshot()["waiting"].get("all", 0))

    def leased(self) -> set[str]:
        return set(self.registry.snapshot()["leases"])

    def sync(self) -> None:
        """Wait until Redis has run all scripts that this process has sent without waiting."""
        self.connection.call("PING")


def end(lease: Lease, *, destroy: bool = False, busy_s: float | None = None) -> None:
    """The worker has answered, and the record is committed."""
    with lease:
        lease.used()
        lease.released(destroy=destroy, busy_s=busy_s)
        lease.committed()


def reap_until(side: Side, condition: Callable[[], bool]) -> None:
    def reaped() -> bool:
        side.registry.reap()
        return condition()

    wait_until(reaped)


def wait_until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    with gevent.Timeout(timeout_s):
        while not condition():
            gevent.sleep(0.02)


def detail_of(lease: Lease) -> str:
    return f"detail of {lease.execution_id}"


def lost(side: Side) -> dict[str, str]:
    """The details of the executions that are to be recorded as lost."""
    return {execution: it.detail for execution, it in side.registry.lost().items()}


def may_run(side: Side) -> dict[str, str]:
    """The worker of each lost execution that may still run."""
    return {execution: it.worker_id for execution, it in side.registry.lost().items() if it.worker_id}
