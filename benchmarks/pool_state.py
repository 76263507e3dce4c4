"""Measures the pool's scripts when Redis has many workers, functions and queues. The workers do not really exist.

    python -m benchmarks.pool_state [--rounds 5] [--functions 1000] [--queues 500]

There are three states, each in a Valkey of its own:

- `small`: 10 workers of one function;
- `single`: 10,000 workers of 1,000 functions; calls of one function wait;
- `many`: the same, and calls of 500 functions wait.

Two states run the same steps in turn. Three values are measured of each script: its time with the round trip, the
server's own time, and the number of commands within it. The exit status is 1 if a bound is exceeded.

All run on one processor: to wake a server on another one can take longer than the script, and differs between servers.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import re
import statistics
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass

from benchmarks.measure import save
from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.generations import Generations
from qinling_falcon.pool.leases import LeaseRequest
from qinling_falcon.pool.runner import ScriptRunner
from tests.servers.valkey import valkey

EACH = 10  # workers of a function
STEPS = 200  # of each script, in a round
RUNTIME, PROJECT = str(uuid.uuid4()), uuid.uuid4().hex
RUN_MS = 90_000
FAR = 10**6
BOUND_OF_RATIO = 1.3
BOUND_OF_MEMORY = 4096
STAT = re.compile(rb"cmdstat_([^:]+):calls=(\d+),usec=(\d+)")


@dataclass(slots=True)
class Function:
    """A function in a state, with the lease that goes from one process to the other in the steps."""

    request: LeaseRequest
    runner: str = "web-1"
    waiter: str = "web-2"
    worker: str = ""
    token: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of a script: its time for the caller and for the server, in microseconds, and its number of commands."""

    caller_us: float
    server_us: float
    commands: float


class State:
    """The pool's keys in one Valkey, changed by the scripts alone."""

    def __init__(self, url: str):
        self.connection = PipelinedConnection(url)
        self.scripts = ScriptRunner(self.connection)
        self.generations = Generations(self.scripts)
        self.costs: dict[str, list[Cost]] = defaultdict(list)
        self.functions: list[Function] = []

    def set_limits(self, project: int = FAR) -> None:
        self.scripts.run("set_limits", FAR, project, FAR, FAR, 20, FAR, FAR, FAR)

    def fill(self, functions: int) -> None:
        """`functions` functions with `EACH` idle workers each, and one warm worker."""
        self.set_limits()
        self.scripts.run("configure", RUNTIME, 1)
        for _ in range(functions * EACH + 1):
            self.start()
        for _ in range(functions):
            one = Function(self.request())
            self.functions.append(one)
            self.lease(one)
            for _ in range(EACH - 1):  # a target that has workers gets no warm one at once: its calls ask for one each
                self.lease(one, kind="warm")
            self.release_all(one)

    def start(self) -> str:
        worker = str(uuid.uuid4())
        self.scripts.run("register", worker, RUNTIME, "python3")
        self.scripts.run("mark_ready", worker, RUNTIME, "python3", "127.0.0.1:40000", uuid.uuid4().hex)
        return worker

    def request(self) -> LeaseRequest:
        function = str(uuid.uuid4())
        what = f"function:{function}"
        detail = {"id": str(uuid.uuid4()), "function_id": function, "project_id": PROJECT, "input": None}
        return LeaseRequest(
            target=f"{function}:0:{uuid.uuid4().hex}{uuid.uuid4().hex}:shared",
            runtime_id=RUNTIME, function_id=function, project_id=PROJECT, execution_id=str(uuid.uuid4()),
            generations=tuple(self.generations.generations([what]).items()), run_s=RUN_MS / 1000,
            detail=json.dumps(detail),
        )  # fmt: skip

    def run(self, step: str, script: str, *args: str | int) -> list[bytes] | int:
        """Run a script, and note what it costs as `step`."""
        us, commands = self._totals()
        began = time.perf_counter()
        reply = self.scripts.run(script, *args)
        took_us = (time.perf_counter() - began) * 1e6
        us_after, commands_after = self._totals()
        self.costs[step].append(Cost(took_us, us_after - us, commands_after - commands))
        return reply

    def median(self, step: str) -> Cost:
        values = [statistics.median(one) for one in zip(*map(astuple, self.costs[step]), strict=True)]
        return Cost(*values)

    def ask(self, one: Function, holder: str, *, kind: str = "any", step: str = "") -> list[bytes]:
        request = one.request
        args = (
            "lease", holder, kind, RUNTIME, request.target, PROJECT, "", request.execution_id, RUN_MS, request.detail,
            1, 0, "", *itertools.chain.from_iterable(request.generations),
        )  # fmt: skip
        return self.run(step, *args) if step else self.scripts.run(*args)

    def lease(self, one: Function, *, kind: str = "any", step: str = "") -> None:
        reply = self.ask(one, one.runner, kind=kind, step=step)
        assert reply[0] == b"lease", reply
        one.worker, one.token = reply[1].decode(), reply[4].decode()

    def release(self, one: Function, step: str) -> None:
        assert self.run(step, "release", one.worker, one.token, 0, one.runner, one.request.execution_id) == 1

    def release_all(self, one: Function) -> None:
        for worker in self.connection.call("SMEMBERS", f"qf:{{pool}}:assigned:{one.request.function_id}"):
            token = self.connection.call("HGET", f"qf:{{pool}}:worker:{worker.decode()}", "token")
            self.scripts.run("release", worker, token, 0, one.runner, one.request.execution_id)

    def lease_and_release(self, one: Function) -> None:
        self.lease(one, step="lease")
        self.renew(one, one.runner, "renew")
        self.release(one, "release without a waiter")

    def make_busy(self, one: Function) -> None:
        for _ in range(EACH):
            self.lease(one)

    def make_wait(self, one: Function) -> None:
        assert self.ask(one, one.waiter)[0] == b"queued"

    def queue_and_pass_on(self, one: Function, suffix: str = "", *, escalates: bool = False) -> None:
        """Calls of both processes wait. The older one is of the process that does not have the worker, and gets it."""
        assert self.ask(one, one.runner, step="enqueue" + suffix)[0] == b"queued"
        if escalates:
            self.run("escalate" + suffix, "escalate", one.runner, one.request.queue, "+0", 0, 20)
        self.release(one, "release" + suffix)
        both = keys.grants(one.waiter), keys.grants(one.runner)
        granted = self.connection.call("LMPOP", 2, *both, "LEFT")
        if granted is None:  # the lease is reserved for a call of another function, which has waited for too long
            self.end_reservations()
            self.scripts.run("escalate", one.waiter, one.request.queue, "+0", 0, "")
            granted = self.connection.call("LMPOP", 2, *both, "LEFT")
        name, messages = granted
        if name.decode() == both[0]:  # otherwise both calls have come in one millisecond
            one.runner, one.waiter = one.waiter, one.runner
        news = json.loads(messages[0])
        assert news[1:3] == ["lease", one.worker], news
        one.token = news[5]
        self.renew(one, one.runner, "accept" + suffix)

    def end_reservations(self) -> None:
        counts = "qf:{pool}:concurrency"
        for name in self.connection.call("HKEYS", counts):
            if name.startswith(b"reserved"):
                self.connection.call("HDEL", counts, name)

    def renew(self, one: Function, holder: str, step: str) -> None:
        request = one.request
        reply = self.run(
            step, "renew", one.worker, one.token, holder, request.execution_id, RUN_MS, request.detail, 0, "", "", 0,
            "", "", *itertools.chain.from_iterable(request.generations),
        )  # fmt: skip
        assert isinstance(reply, list) and reply[0] == b"ok", reply
        one.token = reply[1].decode()

    def memory(self) -> int:
        found = re.search(rb"used_memory:(\d+)", self.connection.call("INFO", "memory"))
        assert found
        return int(found[1])

    def _totals(self) -> tuple[int, int]:
        us = commands = 0
        for name, calls, used in STAT.findall(self.connection.call("INFO", "commandstats")):
            if name == b"fcall":
                us = int(used)
            elif name != b"info":
                commands += int(calls)
        return us, commands


def idle_function_bytes(state: State) -> dict[str, float]:
    """Redis memory for a function with one idle worker, including its record, and for one whose worker has ended."""
    count = 1000
    state.set_limits()
    state.scripts.run("configure", RUNTIME, 0)
    empty = state.memory()
    functions = []
    for _ in range(count):
        state.start()
        functions.append(Function(state.request()))
        state.lease(functions[-1])
        state.scripts.run(
            "release", functions[-1].worker, functions[-1].token, 0, "web-1", functions[-1].request.execution_id
        )
    idle = state.memory()
    for one in functions:
        state.scripts.run("remove", one.worker)
    return {"with an idle worker": (idle - empty) / count, "without a worker": (state.memory() - empty) / count}


Step = Callable[[State, Function], None]


def rounds(count: int, what: str, sides: dict[State, list[Function]], step: Step) -> None:
    """In each round, each state runs `STEPS` steps, with its functions in turn."""
    for number in range(count):
        for turn in range(STEPS):
            for state in list(sides) if turn % 2 else reversed(sides):
                step(state, sides[state][turn % len(sides[state])])
        print(f"{what}: round {number + 1} of {count} done", flush=True)


def escalate_all(waiting: dict[State, list[Function]]) -> None:
    for state, functions in waiting.items():
        for one in functions:
            state.scripts.run("escalate", one.waiter, one.request.queue, "+0", 10, 20)


def measure(small: State, single: State, many: State, count: int, queues: int) -> None:
    """Make the steps of all situations. `small` has idle workers only."""
    waiting = {single: single.functions[:1], many: many.functions[:queues]}
    for state, functions in waiting.items():
        for one in state.functions[:queues]:
            state.make_busy(one)
        for one in functions:
            state.make_wait(one)
    free = {small: small.functions, many: many.functions[queues:]}
    rounds(count, "idle workers", free, State.lease_and_release)
    rounds(count, "queues", waiting, State.queue_and_pass_on)
    escalate_all(waiting)
    rounds(
        count, "queues that want to grow", waiting,
        lambda state, one: state.queue_and_pass_on(one, ", all want to grow", escalates=True),
    )  # fmt: skip
    for state in waiting:
        state.set_limits(project=queues * EACH)
    escalate_all(waiting)
    rounds(
        count, "queues at a limit", waiting,
        lambda state, one: state.queue_and_pass_on(one, ", at the project's limit"),
    )  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--functions", type=int, default=1000)
    arguments.add_argument("--queues", type=int, default=500)
    options = arguments.parse_args()
    if options.queues >= options.functions:
        arguments.error("some functions must have idle workers: name more functions than queues")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with contextlib.ExitStack() as held:
        small, single, many, empty = (State(held.enter_context(valkey())) for _ in range(4))
        for state, functions in ((small, 1), (single, options.functions), (many, options.functions)):
            state.fill(functions)
        measure(small, single, many, options.rounds, options.queues)
        memory = idle_function_bytes(empty)
    sys.exit(report(small, single, many, memory))


def report(small: State, single: State, many: State, memory: dict[str, float]) -> int:
    print(f"\n{'medians, few and many':40} {'us for the caller':^25}   {'us of the server':^25}   commands")
    held, table = True, {}
    for step in many.costs:
        few, more = (small if step in small.costs else single).median(step), many.median(step)
        ratio, of_server = more.caller_us / few.caller_us, more.server_us / few.server_us
        table[step] = {"few": asdict(few), "many": asdict(more), "ratio": ratio}
        bound = f"   (bound of the caller's: {BOUND_OF_RATIO})" if re.match(r"lease|enqueue|release", step) else ""
        held = held and (not bound or ratio <= BOUND_OF_RATIO)
        print(
            f"{step:40} {few.caller_us:8.0f} {more.caller_us:8.0f} {ratio:7.2f}"
            f"   {few.server_us:8.0f} {more.server_us:8.0f} {of_server:7.2f}"
            f"   {few.commands:3.0f} {more.commands:4.0f}{bound}"
        )
    for what, size in memory.items():
        held = held and size <= BOUND_OF_MEMORY
        print(f"Redis memory of a function {what}: {size:.0f} bytes (bound {BOUND_OF_MEMORY})")
    save("pool_state", {"table": table, "bytes": memory})
    print("bounds hold" if held else "BOUNDS MISSED")
    return 0 if held else 1


if __name__ == "__main__":
    main()
