"""The load of `mix`: calls of many functions over kept-alive connections, from one thread.

    python -m benchmarks.mix_load < PLAN

`PLAN` is JSON with these members:

- `port`: where the service listens;
- `functions`: their ids. Other members name a function by its place in this list;
- `callers`: by function, how many callers call it in a closed loop;
- `arrivals`: pairs of (seconds after the start, function) in an open loop;
- `seconds`: after these, nothing is sent any more;
- `shown`: the functions whose calls are waited for after that.

The program prints `begun TIME` (of the monotonic clock, which all processes share). At the end it prints a JSON object
of `calls`, rows of (function, intended start, end, status, start kind, execution id); `refusals`, counts by message
(`#` stands for ids and numbers); and `cpu`, pairs of (time, CPU seconds so far). The status is 0 if a connection broke
or no answer came, and 1 if the execution failed. A caller whose call was refused waits as long as `Retry-After` says.
"""

from __future__ import annotations

import gc
import heapq
import json
import random
import re
import select
import socket
import sys
import time
from collections import Counter

OPENED_BEFORE = 200
LONGEST_WAIT_S = 15.0
RETRY_S = 1.0
STAGGER_S = 0.2
CPU_EVERY_S = 0.5
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
RETRY_AFTER = re.compile(rb"retry-after: (\d+)", re.IGNORECASE)
EXECUTION = re.compile(rb'"id": ?"([0-9a-f-]{36})"')
START_KIND = re.compile(rb'"cold": ?"(\w+)"')
VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+")
SUCCESS = re.compile(rb'"status": ?"success"')


class Connection:
    """A kept-alive connection with at most one call on it.

    Attributes:
        is_callers: it belongs to one caller of a closed loop.
        function: of the present or last call.
        due: the intended start of that call.
        received: a part of the answer.
        length: of the whole answer, once it is known.
    """

    __slots__ = ("due", "function", "is_callers", "length", "received", "socket")

    def __init__(self, is_callers: bool):
        self.is_callers = is_callers
        self.function = -1
        self.due = 0.0

    def open(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received, self.length = b"", 0


class Load:
    """Sends the calls of one plan and notes how they ended."""

    def __init__(self, plan: dict):
        self.port = plan["port"]
        self.requests = [request(function) for function in plan["functions"]]
        self.callers: list[int] = plan["callers"]
        self.arrivals: list[list[float]] = plan["arrivals"]
        self.seconds: float = plan["seconds"]
        self.shown = set(plan["shown"])
        # When, a number that keeps the order, the function, and the connection if the call is one of a caller.
        self.due: list[tuple[float, int, int, Connection | None]] = []
        self.planned = 0
        self.connections: dict[int, Connection] = {}
        self.running: dict[int, Connection] = {}
        self.idle: dict[int, Connection] = {}  # of the open loop, the longest idle one first
        self.calls: list[tuple] = []
        self.refusals: Counter[str] = Counter()
        self.poll = select.epoll()

    def run(self) -> dict:
        for _ in range(min(len(self.arrivals), OPENED_BEFORE)):
            self.put_back(self.connect(Connection(is_callers=False)))
        rng = random.Random(1)
        closed = [
            (rng.uniform(0, STAGGER_S), function, self.connect(Connection(is_callers=True)))
            for function, count in enumerate(self.callers)
            for _ in range(count)
        ]
        begun = time.monotonic()
        for at, function, connection in closed:
            self.plan(begun + at, function, connection)
        for at, function in self.arrivals:
            self.plan(begun + at, int(function), None)
        print(f"begun {begun}", flush=True)
        end = begun + self.seconds
        cpu = [(begun, time.process_time())]
        while True:
            now = time.monotonic()
            if now >= cpu[-1][0] + CPU_EVERY_S:
                cpu.append((now, time.process_time()))
            while self.due and self.due[0][0] <= now:
                at, _, function, connection = heapq.heappop(self.due)
                if at < end:
                    self.send(at, function, connection)
            if now >= end and not any(one.function in self.shown for one in self.running.values()):
                break
            if now >= end + LONGEST_WAIT_S:
                break
            # select() waits with microseconds, epoll with milliseconds.
            wait_s = min(self.due[0][0] - now if self.due else CPU_EVERY_S, CPU_EVERY_S)
            if wait_s <= 0 or select.select([self.poll], [], [], wait_s)[0]:
                for number, _ in self.poll.poll(0):
                    self.read(number)
        for connection in self.running.values():
            if connection.function in self.shown:
                self.note(connection, 0)
        cpu.append((time.monotonic(), time.process_time()))
        return {"calls": self.calls, "refusals": self.refusals, "cpu": cpu}

    def plan(self, at: float, function: int, connection: Connection | None) -> None:
        self.planned += 1
        heapq.heappush(self.due, (at, self.planned, function, connection))

    def connect(self, connection: Connection) -> Connection:
        connection.open(self.port)
        self.connections[connection.socket.fileno()] = connection
        self.poll.register(connection.socket, select.EPOLLIN)
        return connection

    def put_back(self, connection: Connection) -> None:
        self.idle[connection.socket.fileno()] = connection

    def send(self, due: float, function: int, connection: Connection | None) -> None:
        if connection is None:
            number = next(iter(self.idle), None)
            connection = self.connect(Connection(is_callers=False)) if number is None else self.idle.pop(number)
        connection.function, connection.due = function, due
        self.running[connection.socket.fileno()] = connection
        try:
            connection.socket.send(self.requests[function])
        except OSError:
            self.broken(connection)

    def read(self, number: int) -> None:
        connection = self.connections[number]
        try:
            data = connection.socket.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.broken(connection)
            return
        data = connection.received + data
        if not connection.length:
            head = data.find(b"\r\n\r\n")
            found = LENGTH.search(data, 0, head) if head >= 0 else None
            if found:
                connection.length = head + 4 + int(found[1])
        if not connection.length or len(data) < connection.length:
            connection.received = data
            return
        connection.received, connection.length = b"", 0
        self.answered(connection, data)

    def answered(self, connection: Connection, data: bytes) -> None:
        status = int(data[9:12])
        kind, execution = START_KIND.search(data), EXECUTION.search(data)
        if status == 201 and not SUCCESS.search(data):
            status = 1
        elif status != 201:
            message = json.loads(data.partition(b"\r\n\r\n")[2])["faultstring"]
            self.refusals[VARYING.sub("#", message)] += 1
        ended = self.note(
            connection, status, kind[1].decode() if kind else "", execution[1].decode() if execution else ""
        )
        del self.running[connection.socket.fileno()]
        if not connection.is_callers:
            self.put_back(connection)
        elif status == 201:
            self.plan(ended, connection.function, connection)
        else:
            after = RETRY_AFTER.search(data)
            self.plan(ended + (float(after[1]) if after else RETRY_S), connection.function, connection)

    def note(self, connection: Connection, status: int, kind: str = "", execution: str = "") -> float:
        ended = time.monotonic()
        self.calls.append((connection.function, connection.due, ended, status, kind, execution))
        return ended

    def broken(self, connection: Connection) -> None:
        number = connection.socket.fileno()
        was_running = self.running.pop(number, None) is not None
        self.idle.pop(number, None)
        del self.connections[number]
        self.poll.unregister(connection.socket)
        connection.socket.close()
        if connection.is_callers:
            self.connect(connection)
        if was_running:
            ended = self.note(connection, 0)
            if connection.is_callers:
                self.plan(ended + RETRY_S, connection.function, connection)


def request(function: str) -> bytes:
    body = json.dumps({"function_id": function, "input": None})
    lines = ["POST /v1/executions HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()


def main() -> None:
    plan = json.load(sys.stdin)
    gc.disable()  # all objects live until the end
    json.dump(Load(plan).run(), sys.stdout)


if __name__ == "__main__":
    main()
