"""Starts a service as `make run` does, with default settings, and measures it under load; for `mix`."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
import redis

from benchmarks.measure import cpu_seconds
from qinling_falcon.settings import Settings
from qinling_falcon.settings_environment import read_settings
from tests.integration.service import Service, free_port, wait_until
from tests.support.control_groups import remove_groups_of

POOL = "qf:{pool}:"
CHANNEL = "__keyspace@0__:"


class DefaultService(Service):
    """A service that was started by `make run`, and its processes."""

    def pids(self) -> dict[str, list[int]]:
        words = {"web": "gunicorn", "pool manager and workers": "workers.pool", "valkey": "valkey-server"}
        found: dict[str, list[int]] = {name: [] for name in words}
        top = psutil.Process(self.processes["run"].pid)
        supervisor = next(child for child in top.children() if "supervisor.supervisord" in child.cmdline())
        for child in supervisor.children():
            for name, word in words.items():
                if any(word in part for part in child.cmdline()):
                    found[name].append(child.pid)
        assert all(found.values()), found
        return found

    def redis_url(self) -> str:
        command = psutil.Process(self.pids()["valkey"][0]).cmdline()
        return f"unix://{command[command.index('--unixsocket') + 1]}"

    def close(self) -> None:
        self.stop("run")


def check_defaults() -> None:
    """End the program if an environment variable changes a setting."""
    present, default = read_settings(), Settings()
    changed = [one.name.upper() for one in fields(Settings) if getattr(present, one.name) != getattr(default, one.name)]
    if changed:
        sys.exit(f"mix measures default settings: unset {', '.join(changed)}")


@contextlib.contextmanager
def default_service(root: Path) -> Iterator[DefaultService]:
    """Start the service of the checkout in `root`, wait for a full stock of warm workers, and end it afterwards."""
    with tempfile.TemporaryDirectory(prefix="qf-") as folder:
        port = free_port()
        environ = os.environ | {"PORT": str(port), "VAR_DIR": folder}
        service = DefaultService(port, Path(folder), environ, root)
        service.start("run", sys.executable, "-m", "workers.run", "--end-with-parent")
        try:
            wait_until("the service is ready", lambda: service.request("GET", "/readyz").status_code == 200, 60)
            runtime, warm = service.runtime(), Settings().warm_workers
            wait_until("the stock is full", lambda: service.capacity(runtime)["available"] >= warm)
            yield service
        finally:
            service.close()
            remove_groups_of(Path(folder))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals at one moment: Redis commands, those in scripts included, and CPU seconds by process."""

    at: float
    commands: int
    cpu: dict[str, float]


class Watch:
    """Counts the pool's workers by notifications of Redis about their sets. It costs nothing while no worker comes.

    Args:
        service: whose workers and processes.
        function: its workers are counted, too.
    """

    def __init__(self, service: DefaultService, function: str | None = None):
        self._groups = service.pids()
        self._redis = redis.Redis.from_url(service.redis_url())
        self._redis.config_set("notify-keyspace-events", "Ks")
        self._of_function = f"{POOL}assigned:{function}".encode()
        self._events = self._redis.pubsub()
        self._events.subscribe(*(f"{CHANNEL}{name}" for name in (f"{POOL}workers", self._of_function.decode())))
        self._sent = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self._starts: list[float] = []
        self._held = 0
        self.most_of_function = 0

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._events.close()
        self._redis.close()

    def starts(self, begin: float, end: float) -> int:
        """How many workers came between two moments."""
        return sum(begin <= at < end for at in self._starts)

    def workers(self) -> int:
        """How many workers there are."""
        self._sent += 1
        return int(self._redis.scard(f"{POOL}workers"))

    def snapshot(self) -> Snapshot:
        stats = self._redis.info("commandstats")
        commands = sum(one["calls"] for one in stats.values()) - self._sent
        self._sent += 1
        return Snapshot(time.monotonic(), commands, cpu_seconds(self._groups))

    def _listen(self) -> None:
        while not self._stopping.is_set():
            event = self._events.get_message(ignore_subscribe_messages=True, timeout=0.1)
            if event is None:
                continue
            change = {b"sadd": 1, b"srem": -1}.get(event["data"], 0)
            if event["channel"].endswith(self._of_function):
                self._held += change
                self.most_of_function = max(self.most_of_function, self._held)
            elif change > 0:
                self._starts.append(time.monotonic())
