"""What each path costs in Redis commands: the same for any number of workers, functions, queues and processes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.registry import Registry
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.settings import Settings
from tests.servers.valkey import ValkeyServer

DOC = Path(__file__).parents[2] / "docs/redis-keys.md"
ROOMY = Settings(
    max_workers=10_000, function_concurrency=10_000, project_concurrency=10_000, max_waiters=100_000,
    function_queue_factor=1, project_queue_factor=10,
)  # fmt: skip
NOW = 1_700_000_000_000
KEY, GENERATION = "function:f", "g"


class Commands:
    """Runs scripts, and counts the commands that Redis carries out for each."""

    def __init__(self, connection: PipelinedConnection):
        self._connection = connection
        self.scripts = ScriptRunner(connection, lambda: NOW)
        self.costs: dict[str, int] = {}

    def run(self, path: str, script: str, *args: str | int | bytes) -> list[bytes]:
        before = self._count()
        reply = self.scripts.run(script, *args)
        self.costs[path] = self._count() - before
        return reply if isinstance(reply, list) else [reply]

    def _count(self) -> int:
        """All commands but FCALL itself."""
        stats = self._connection.call("INFO", "commandstats")
        calls = re.findall(rb"cmdstat_([^:]+):calls=(\d+)", stats)
        return sum(int(count) for name, count in calls if name not in (b"info", b"fcall"))


def lease(holder: str, function: str, execution: str = "e") -> list[str | int]:
    request: list[str | int] = [holder, "any", "python3", f"{function}:0:digest", "p", "", execution, 30_000, "detail"]
    return [*request, 1, 0, "", KEY, GENERATION]


def renew(
    holder: str, worker: bytes, token: bytes, queue: str = "", change: str = ""
) -> list[str | int | bytes]:
    return [worker, token, holder, "next", 30_000, "detail", 0, queue, change, 0, "", "before", KEY, GENERATION]


def costs_beside(connection: PipelinedConnection, others: int) -> dict[str, int]:
    """The costs of each path of one function beside `others` idle functions and `others` busy ones.

    Each idle function has an idle worker. Each busy one has a leased worker and a process that waits. In some steps,
    `others` processes also wait in the queue of the function itself.
    """
    connection.call("FLUSHALL")
    registry = Registry(connection, ROOMY, clock=lambda: NOW)
    registry.configure("python3", 0)
    registry.set_limits(ROOMY.max_workers, 20.0)
    commands = Commands(connection)
    commands.scripts.run("generations", KEY, GENERATION)
    numbers = iter(range(100_000))

    def start() -> None:
        name = f"w{next(numbers)}"
        assert registry.register(name, "python3")
        registry.mark_ready(WorkerInfo(name, "address", "secret"), "python3")

    for number in range(others):
        commands.scripts.run("heartbeat", f"h{number}", 0, "")
        start()
        _, worker, _, _, token, *_ = commands.scripts.run("lease", *lease(f"h{number}", f"idle{number}"))
        commands.scripts.run("release", worker, token, 0, f"h{number}", "e")
        start()
        commands.scripts.run("lease", *lease(f"h{number}", f"busy{number}"))
        assert commands.scripts.run("lease", *lease(f"h{number}", f"busy{number}"))[0] == b"queued"
    for holder in ("me", "you"):
        commands.scripts.run("heartbeat", holder, 0, "")
    for _ in range(2):
        start()
    queue = "python3|f:0:digest|any|p"

    commands.run("a function's first lease", "lease", *lease("me", "f"))
    [(worker, token)] = held(connection, "f")
    commands.run("release, no call waits", "release", worker, token, 0, "me", "e")
    _, worker, _, _, token, *_ = commands.run("lease of an idle worker", "lease", *lease("me", "f"))
    _, token = commands.run("renew", "renew", *renew("me", worker, token))
    for number in range(others):
        assert commands.scripts.run("lease", *lease(f"h{number}", "f"))[0] == b"queued"
    assert commands.run("queued call: lease", "lease", *lease("you", "f"))[0] == b"queued"
    commands.run("leave", "leave", "you", queue, "-1", 0)
    for number in range(others):
        commands.scripts.run("leave", f"h{number}", queue, "=0", 0)
    assert commands.scripts.run("lease", *lease("you", "f"))[0] == b"queued"
    for number in range(others):
        assert commands.scripts.run("lease", *lease(f"h{number}", "f"))[0] == b"queued"
    commands.scripts.run("lease", *lease("me", "other"))  # takes the last warm worker
    commands.run("queued call: escalate", "escalate", "you", queue, "+0", 10, 20)
    commands.run("queued call: the release that offers it the worker", "release", worker, token, 0, "me", "next")
    [(worker, token)] = held(connection, "f")
    accept = renew("you", worker, token, queue, "+0")
    assert commands.run("queued call: renew, which accepts the offer", "renew", *accept)[0] == b"ok"
    commands.scripts.run("push_ready", "p", "", "f", "another")
    commands.scripts.run("generations", "webhook:w", GENERATION)
    admitted = ["p", 1000, "webhook:w", GENERATION, KEY, GENERATION]
    assert commands.run("delivery without a rate limit", "admit_delivery", "", 0, 0, *admitted) == [b"admitted"]
    assert commands.run("delivery with a rate limit", "admit_delivery", "w", 60, 9, *admitted) == [b"admitted"]
    commands.run("accepted delivery: the message that queues it", "push_ready", "p", "", "f", "one more")
    registry.close()
    return commands.costs


def found_beside(connection: PipelinedConnection, others: int) -> tuple[str, int]:
    """The worker with which a short execution is found beside `others` long ones, and the number of commands."""
    connection.call("FLUSHALL")
    registry = Registry(connection, ROOMY, clock=lambda: NOW)
    registry.configure("python3", 0)
    registry.set_limits(ROOMY.max_workers, 20.0)
    commands = Commands(connection)
    commands.scripts.run("heartbeat", "me", 0, "")
    commands.scripts.run("generations", KEY, GENERATION)
    for number in range(others + 1):
        name = "short" if number == others else f"long{number}"
        assert registry.register(name, "python3")
        registry.mark_ready(WorkerInfo(name, "address", "secret"), "python3")
        request = lease("me", f"f{number}", f"execution of {name}")
        request[7] = 5_000 if name == "short" else 300_000
        assert commands.scripts.run("lease", *request)[0] == b"lease"
    [found] = commands.run("find", "inspect_execution", "execution of short")
    registry.close()
    return json.loads(found)["worker"]["id"], commands.costs["find"]


def held(connection: PipelinedConnection, function: str) -> list[tuple[bytes, bytes]]:
    """The workers of a function, with their tokens."""
    workers = connection.call("SMEMBERS", f"qf:{{pool}}:assigned:{function}")
    return [(worker, connection.call("HGET", b"qf:{pool}:worker:" + worker, "token")) for worker in workers]


@pytest.fixture(scope="module")
def costs(server: ValkeyServer) -> dict[str, int]:
    connection = PipelinedConnection(server.url)
    few = costs_beside(connection, 3)
    connection.close()
    return few


def test_no_path_costs_more_beside_many_workers_functions_queues_and_processes(
    connection: PipelinedConnection, costs: dict[str, int]
) -> None:
    assert costs_beside(connection, 300) == costs


def test_the_worker_of_an_execution_is_found_at_the_same_cost_beside_any_number_of_leases(
    connection: PipelinedConnection,
) -> None:
    worker, cost = found_beside(connection, 3)
    assert worker == "short"
    assert found_beside(connection, 600) == ("short", cost)


def test_the_documented_costs_are_the_measured_ones(costs: dict[str, int]) -> None:
    documented = dict(re.findall(r"^\| ([^|]+) \| (?:\d+) \| (\d+) \|", DOC.read_text(), re.MULTILINE))
    assert documented == {path: str(count) for path, count in costs.items()}
