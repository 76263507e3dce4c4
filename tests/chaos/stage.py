"""A service whose processes are killed: all processes of the Procfile that executions need, each one restarted."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import psycopg2
import redis
import requests

from tests.chaos.functions import Kind
from tests.chaos.web import HEADER
from tests.integration.service import Service, package, running_service, wait_until
from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.valkey import ValkeyServer
from tests.support.secrets import fernet_key

_MODULES = {
    "worker": "workers.worker", "tasks": "workers.tasks", "scheduler": "workers.scheduler", "pool": "workers.pool"
}  # fmt: skip
_LOOK_EVERY_S = 0.05
_STOP_TIMEOUT_S = 60.0
_BACKOFF_S = 0.2
# What is killed is noticed sooner than by default, so that the tests wait less.
_SETTINGS = {
    "max_workers": 8,
    "warm_workers": 1,
    "function_concurrency": 8,
    "project_concurrency": 8,
    "holder_ttl_s": 2,
    "reap_interval_s": 0.5,
    "async_claim_s": 4,
    # Callbacks go to a receiver of the test's.
    "callback_networks": "127.0.0.0/8",
    "callback_timeout_s": 5,
    "callback_backoff_s": 0.5,
    "callback_max_attempts": 20,
    "secret_keys": fernet_key(1),
}


class Stage:
    """A running service with its Redis, its database, and the folder in which functions count their runs.

    Args:
        service: has a web process and a pool manager.
        valkey: its Redis.
        postgres: its database server; None: the database is SQLite.
        database_url: its database; empty for SQLite.
        counters: the folder.
        workers: how many `worker` processes there are.
        schedulers: how many `scheduler` processes there are.
        claim_s: how long a claim lasts.

    Attributes:
        functions: the functions that the load calls.
        projects: the project of each of them; empty: the admin's.
        has_callbacks: those of them that have callbacks.
        deleted: those of them that were deleted.
    """

    def __init__(
        self,
        service: Service,
        valkey: ValkeyServer,
        postgres: PostgresServer | None,
        database_url: str,
        counters: Path,
        workers: int,
        schedulers: int,
        claim_s: float,
    ):
        self.service = service
        self.valkey = valkey
        self.postgres = postgres
        self.counters = counters
        self.claim_s = claim_s
        self.functions: dict[str, Kind] = {}
        self.projects: dict[str, str] = {}
        self.has_callbacks: set[str] = set()
        self.deleted: set[str] = set()
        self.worker_names = [f"worker-{number}" for number in range(workers)]
        self.scheduler_names = [f"scheduler-{number}" for number in range(schedulers)]
        self._database_url = database_url
        self._lock = threading.Lock()  # the processes are started and killed by several threads
        self._is_closing = False
        self._failure: BaseException | None = None
        self._watcher = threading.Thread(target=self._restart_the_dead, name="watcher")

    def start(self) -> None:
        """Start `tasks` and the `scheduler` processes, and restart each process that ends from now on."""
        for name in ("tasks", *self.scheduler_names):
            self._start(name)
        self._watcher.start()

    def start_workers(self) -> None:
        """Start the `worker` processes, so that executions run from now on."""
        with self._lock:
            for name in self.worker_names:
                self._start(name)

    def close(self) -> None:
        """Restart nothing more, and end the processes that this object has started."""
        self._is_closing = True
        if self._watcher.is_alive():
            self._watcher.join()
        for name in ("tasks", *self.scheduler_names, *self.worker_names):
            process = self.service.processes.pop(name, None)
            if process is not None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise

    def check_alive(self) -> None:
        """Raise the error that has ended the thread which restarts processes."""
        if self._failure is not None:
            raise self._failure

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process of the service. If the process ends, it is restarted."""
        with self._lock:
            self.service.processes[name].send_signal(number)

    def kill_a_web_process(self, choice: float) -> None:
        """SIGKILL one of Gunicorn's children, which Gunicorn restarts.

        Args:
            choice: which one, from 0 to 1.
        """
        with contextlib.suppress(OSError), self._lock:
            children = self.service.web_processes()
            if children:
                os.kill(children[int(choice * len(children))], signal.SIGKILL)

    def wait_started(self, name: str, earlier: int) -> None:
        """Wait until a process with another pid than `earlier` runs."""
        wait_until(f"{name} was started again", lambda: self.pid(name) not in (0, earlier))

    def pid(self, name: str) -> int:
        """The pid of a process; 0: it does not run now."""
        with self._lock:
            process = self.service.processes.get(name)
            return process.pid if process is not None and process.poll() is None else 0

    def redis(self) -> redis.Redis:
        """A connection to the service's Redis."""
        return redis.Redis.from_url(self.valkey.url)

    def restart_redis(self, away_s: float, *, keeps_data: bool) -> None:
        """SIGKILL Redis, and start it again after some seconds, with its data or without."""
        self.valkey.kill()
        if not keeps_data:
            shutil.rmtree(Path(self.valkey.url.removeprefix("unix://")).parent / "appendonlydir")
        time.sleep(away_s)
        self.valkey.start()

    def restart_postgres(self, away_s: float) -> None:
        """Kill PostgreSQL, and start it again after some seconds."""
        assert self.postgres is not None
        self.postgres.kill()
        time.sleep(away_s)
        self.postgres.start()

    def suspend_database(self, for_s: float) -> None:
        """Let the database be there, but not answer: PostgreSQL's processes are stopped, or SQLite is locked."""
        if self.postgres is None:
            with contextlib.closing(self._connect()) as connection:
                connection.isolation_level = None
                connection.execute("BEGIN IMMEDIATE")
                time.sleep(for_s)
                connection.execute("ROLLBACK")
            return
        postmaster = psutil.Process(self.postgres.postmaster_pid)
        postmaster.suspend()  # first, so that it starts no further processes
        stopped = [postmaster]
        try:
            for child in postmaster.children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.suspend()
                    stopped.append(child)
            time.sleep(for_s)
        finally:
            for process in reversed(stopped):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def make_function(self, kind: Kind, project: str = "", callback: str = "") -> str:
        """Make a function. Returns its id.

        Args:
            kind: what it does.
            project: its project; empty: the admin's.
            callback: the URL of its callbacks; empty: it has none.
        """
        fields: dict[str, Any] = {"timeout": kind.timeout_s, "max_attempts": kind.max_attempts}
        fields |= {"backoff_s": _BACKOFF_S, "runtime_id": self.service.runtime()}
        if callback:
            fields |= {"on_success": callback, "on_failure": callback}
        with mock.patch.dict(self.service.http.headers, {HEADER: project} if project else {}):
            function_id = self.service.function(kind.source, **fields)
        self.functions[function_id] = kind
        self.projects[function_id] = project
        if callback:
            self.has_callbacks.add(function_id)
        return function_id

    def change_function(self, choice: float) -> None:
        """Give a function a new package. Its code does the same."""
        living = [function_id for function_id in self.functions if function_id not in self.deleted]
        function_id = living[int(choice * len(living))]
        source = f"{self.functions[function_id].source}# {time.monotonic_ns()}\n"
        files = {"package": ("f.zip", package(main=source), "application/zip")}
        self._until_answered(lambda: requests.put(self._url(function_id), files=files, data={"entry": "main.main"}))

    def delete_function(self, choice: float) -> None:
        """Delete a function, unless it is the last one."""
        living = [function_id for function_id in self.functions if function_id not in self.deleted]
        if len(living) > 1:
            self.deleted.add(function_id := living[int(choice * len(living))])
            self._until_answered(lambda: requests.delete(self._url(function_id)))

    def _url(self, function_id: str) -> str:
        return f"{self.service.url}/v1/functions/{function_id}"

    def _until_answered(self, request: Callable[[], requests.Response]) -> None:
        """Send a request until the service, of which a part may be away, can serve it."""

        def is_served() -> bool:
            answer = request()
            assert answer.ok or answer.status_code >= 500, answer.text
            return answer.ok

        wait_until("a function was changed or deleted", is_served)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """The rows of a query."""
        with contextlib.closing(self._connect()) as connection:
            cursor = connection.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall())

    def write(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run a statement for each of the rows, with `?` for its values, in one transaction."""
        with contextlib.closing(self._connect()) as connection:
            cursor = connection.cursor()
            cursor.executemany(sql if self.postgres is None else sql.replace("?", "%s"), rows)
            connection.commit()

    def _connect(self) -> Any:
        if self.postgres is not None:
            return psycopg2.connect(self._database_url)
        return sqlite3.connect(self.service.var_dir / "qinling.db", timeout=30)

    def _start(self, name: str) -> None:
        if name == "web":
            self.service.start_web()
        else:
            self.service.start_module(name, _MODULES[name.partition("-")[0]])

    def _restart_the_dead(self) -> None:
        """Start each process again that has ended, as a process manager does."""
        try:
            while not self._is_closing:
                time.sleep(_LOOK_EVERY_S)
                with self._lock:
                    for name, process in list(self.service.processes.items()):
                        if process.poll() is not None:
                            self._start(name)
        except BaseException as error:
            self._failure = error


def _start_web(service: Service) -> None:
    """Start a web process whose callers may name their project."""
    config = service.root / "config" / "gunicorn.conf.py"
    service.start_module("web", "tests.chaos.web", "-c", str(config), "--no-control-socket", "app:application")


@contextlib.contextmanager
def running_stage(
    *, is_postgres: bool = False, workers: int = 1, schedulers: int = 0, **settings: Any
) -> Iterator[Stage]:
    """Start a service for chaos, and end it.

    Args:
        is_postgres: whether the database is PostgreSQL.
        workers: the number of `worker` processes.
        schedulers: the number of `scheduler` processes.
        settings: further settings of the service.
    """
    with contextlib.ExitStack() as stack:
        counters = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qf-counters-")))
        counters.chmod(0o1777)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vk", dir="/tmp")))
        valkey = ValkeyServer(folder, ("--appendonly", "yes"))
        stack.callback(valkey.stop)
        valkey.start()
        postgres = stack.enter_context(running_postgres()) if is_postgres else None
        url = postgres.create_database() if postgres is not None else ""
        everything = {**_SETTINGS, "test_counter_dir": counters, "redis_url": valkey.url, **settings}
        stack.enter_context(mock.patch.object(Service, "start_web", _start_web))
        service = stack.enter_context(running_service(url, **everything))
        claim_s = float(everything["async_claim_s"])
        stage = Stage(service, valkey, postgres, url, counters, workers, schedulers, claim_s)
        stack.callback(stage.close)
        stage.start()
        yield stage
