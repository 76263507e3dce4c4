"""Measures calls of one worker without the service: warm, with isolation by call, and with a timeout.

    python -m benchmarks.worker_calls [--rounds 5] [--seconds 2]

Worker and client share one core. The client sends one call after another on one connection. Ends with status 1 when a
bound is missed.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import HELLO, save
from qinling_falcon.orchestrators.addresses import connect
from qinling_falcon.orchestrators.base import WorkerInfo
from qinling_falcon.orchestrators.process.orchestrator import ProcessOrchestrator
from qinling_falcon.settings import Settings

SLEEP = "import time\ndef main(): time.sleep(60)\n"
TIMEOUT_S = 0.2


class Client:
    """One connection to a worker that has loaded a function."""

    def __init__(self, worker: WorkerInfo, source: str, isolation: str = "warm"):
        self._socket = connect(worker.address, 10)
        self._secret = worker.secret
        self._tokens = itertools.count(1)
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("main.py", source)
        about = {"target": "f:0:x", "entry": "main.main", "memory_size": 128 << 20, "cpu": 1000, "isolation": isolation}
        answer = self._send("/load", archive.getvalue(), f"X-Load: {json.dumps(about)}\r\n")
        assert answer.startswith(b"HTTP/1.1 200"), answer

    def call(self, timeout_s: float = 5) -> bytes:
        body = b'%d e %g\n{"context": {}}' % (next(self._tokens), timeout_s)
        return self._send("/execute", body)

    def _send(self, path: str, body: bytes, head: str = "") -> bytes:
        head = f"X-Worker-Secret: {self._secret}\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(f"POST {path} HTTP/1.1\r\n{head}".encode() + body)
        return self._socket.recv(65536)


def calls(client: Client, seconds: float) -> list[float]:
    """How long each call took that was made in these seconds, in ms."""
    taken = []
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        assert b'"success"' in client.call()
        taken.append((time.perf_counter() - now) * 1000)
    return taken


def timeouts(client: Client, count: int) -> Iterator[float]:
    """How long after each timeout the answer comes, in ms."""
    for _ in range(count):
        began = time.perf_counter()
        assert b'"timeout"' in client.call(TIMEOUT_S)
        yield (time.perf_counter() - began - TIMEOUT_S) * 1000


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=2)
    options = arguments.parse_args()
    logging.disable(logging.ERROR)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rounds: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        orchestrator = ProcessOrchestrator(Settings(var_dir=Path(folder)))
        try:
            clients = {kind: Client(orchestrator.start(kind, "python3"), HELLO, kind) for kind in ("warm", "per_call")}
            sleeper = Client(orchestrator.start("sleeper", "python3"), SLEEP, "warm")
            for client in clients.values():
                calls(client, 0.5)
            for _ in range(options.rounds):
                for kind, client in clients.items():
                    taken = calls(client, options.seconds)
                    rounds.setdefault(f"{kind} calls/s", []).append(len(taken) / options.seconds)
                    rounds.setdefault(f"{kind} median ms", []).append(statistics.median(taken))
                rounds.setdefault("answer after a timeout ms", []).extend(timeouts(sleeper, 3))
        finally:
            orchestrator.detach()
    found = {name: statistics.median(values) for name, values in rounds.items()}
    bounds = {
        "warm calls/s": (15_000, True), "per_call calls/s": (300, True), "per_call median ms": (4, False),
        "answer after a timeout ms": (15, False),
    }  # fmt: skip
    held = True
    for name, value in found.items():
        bound, is_lowest = bounds.get(name, (None, False))
        said = "" if bound is None else f"   (bound: {'at least' if is_lowest else 'at most'} {bound})"
        print(f"{name:<28}{value:>10.3f}{said}")
        held = held and (bound is None or (value >= bound if is_lowest else value <= bound))
    save("worker_calls", {"rounds": rounds})
    print("bounds hold" if held else "a bound is missed")
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    main()
