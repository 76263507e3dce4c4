"""A pool whose clock only a test moves, and whose scripts the test runs itself, with workers that are only names."""

from __future__ import annotations

import itertools
from typing import Any

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.policy import Decision, Policy
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.settings import Settings

ROOMY = Settings(
    max_workers=10_000, function_concurrency=10_000, project_concurrency=10_000, max_waiters=100_000,
    function_queue_factor=1, project_queue_factor=10, holder_ttl_s=6, worker_idle_s=600,
)  # fmt: skip
START_MS = 20.0
HOLDER = "web-1"
Lease = tuple[bytes, bytes]  # worker, token


class Scene:
    """A pool with `max_workers`, one process that leases workers of the runtime `python3`, and the manager's steps.

    Attributes:
        now: the time by Redis's clock, in ms.
        passed_ms: the time by a clock that never steps.
    """

    def __init__(self, connection: PipelinedConnection, max_workers: int):
        self.now, self.passed_ms = 1_700_000_000_000, 0
        self.connection = connection
        clocks: dict[str, Any] = {"clock": lambda: self.now, "monotonic": lambda: self.passed_ms / 1000}
        self.registry = Registry(connection, ROOMY, **clocks)
        self.scripts = ScriptRunner(connection, lambda: self.now)
        self.policy = Policy(max_workers, 2, START_MS, clocks["monotonic"])
        self.numbers = itertools.count()
        self.as_of = b"0"
        self.registry.configure("python3", 0)
        self.limit(max_workers)

    def close(self) -> None:
        self.registry.close()

    def limit(self, max_workers: int) -> None:
        self.policy.max_workers = max_workers
        self.registry.set_limits(max_workers, START_MS)

    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.passed_ms += ms

    def live(self, ms: int, *leases: Lease) -> None:
        """Let time pass, in which the process reports its leases, and the manager reaps."""
        for _ in range(0, ms, 1000):
            self.pass_time(1000)
            names = [worker + b":" + token for worker, token in leases]
            self.as_of, _ = self.scripts.run("heartbeat", HOLDER, self.as_of, "", *names)
            self.registry.reap()

    def start(self, count: int = 1) -> None:
        for _ in range(count):
            name = f"w{next(self.numbers)}"
            assert self.registry.register(name, "python3")
            self.registry.mark_ready(WorkerInfo(name, "address", "secret"), "python3")

    def ask(self, function: str, kind: str = "any", run_ms: int = 30_000, waits: bool = False) -> list[bytes]:
        call = [HOLDER, kind, "python3", f"{function}:0:digest", "p", "", f"e{next(self.numbers)}", run_ms, "detail"]
        reply: list[bytes] = self.scripts.run("lease", *call, int(waits), 0, "")
        return reply

    def lease(self, function: str, kind: str = "any", run_ms: int = 30_000) -> Lease:
        _, worker, _, _, token, *_ = self.ask(function, kind, run_ms)
        return worker, token

    def release(self, lease: Lease) -> None:
        assert self.scripts.run("release", *lease, 0, HOLDER, "") == 1

    def wait(self, function: str, calls: int = 1, waited_ms: int = 0) -> None:
        """Calls of a function wait, and want one more worker."""
        assert self.ask(function, waits=True)[0] == b"queued"
        self.scripts.run("escalate", HOLDER, queue(function), f"={calls}", waited_ms, "")

    def waiting(self, function: str) -> int:
        return int(self.connection.call("HGET", f"qf:{{pool}}:counts:{queue(function)}", HOLDER) or 0)

    def grow(self) -> Decision:
        """The manager's growth pass, with workers that start and end at once."""
        for worker in self.registry.draining():
            self.registry.remove(worker)
        decision = self.policy.decide(self.registry.view(), 2)
        self.start(len(decision.starts))
        for eviction in decision.evictions:
            self.registry.evict(eviction.worker, eviction.unused_ms)
        for recall in decision.recalls:
            self.registry.recall(recall.worker, recall.stands_ms)
        for taken_back in decision.taken_back:
            self.registry.recall(taken_back, 0)
        return decision


def target(function: str) -> str:
    return f"{function}:0:digest"


def queue(function: str) -> str:
    return f"python3|{target(function)}|any|p"
