"""A whole service for tests: real Gunicorn, pool manager, Valkey and sandboxed workers, on a free port.

With `ORCHESTRATOR=kubernetes` in the environment, as in `python -m tests.kubernetes`, the workers are pods.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis
import requests

from qinling_falcon.settings_environment import read_settings
from tests.servers.forked_process import ForkedProcess
from tests.servers.valkey import valkey
from tests.support.control_groups import remove_groups_of
from tests.support.orchestrators import settings_of_orchestrator
from tests.support.tables import make_tables

ROOT = Path(__file__).resolve().parents[2]


def package(**modules: str) -> bytes:
    """A zip with one module for each keyword, name to source: the same bytes at any time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, source in modules.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.py"), source)
    return buffer.getvalue()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, condition: Any, timeout_s: float = 30.0) -> Any:
    """Poll until `condition()` is true, and return it; fail the test with `what` otherwise."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(requests.ConnectionError):
            value = condition()
            if value:
                return value
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


def connections() -> set[tuple[int, int]]:
    """Ports, here and there, of this machine's ends of TCP connections."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {(int(row[1].rpartition(":")[2], 16), int(row[2].rpartition(":")[2], 16)) for row in rows}


class Service:
    """One running service and a user of it.

    Args:
        port: of the web processes.
        var_dir: the folder of its data and logs.
        environ: the environment of its processes.
        root: where its code is.
        new_interpreters: starts an interpreter for each process, as users do, instead of a fork of one.
    """

    def __init__(
        self, port: int, var_dir: Path, environ: dict[str, str], root: Path = ROOT, *, new_interpreters: bool = False
    ):
        self.root = root
        self.new_interpreters = new_interpreters
        self.url = f"http://127.0.0.1:{port}"
        self.var_dir = var_dir
        self.environ = environ
        self.http = requests.Session()
        self.processes: dict[str, subprocess.Popen[bytes] | ForkedProcess] = {}

    def start(self, name: str, *command: str) -> None:
        with (self.var_dir / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                cwd=self.root,
                env=self.environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start_module(self, name: str, module: str, *arguments: str) -> None:
        """Start `python -m module`."""
        if self.new_interpreters:
            self.start(name, sys.executable, "-m", module, *arguments)
            return
        with (self.var_dir / f"{name}.log").open("ab") as log:
            self.processes[name] = ForkedProcess(module, arguments, self.environ, log.fileno())

    def start_pool(self, name: str = "pool") -> None:
        self.start_module(name, "workers.pool")

    def start_web(self, name: str = "web") -> None:
        config = self.root / "config" / "gunicorn.conf.py"
        self.start_module(name, "gunicorn", "-c", str(config), "--no-control-socket", "app:application")

    def start_workers(self) -> None:
        """Start the processes that run asynchronous executions."""
        self.start_module("worker", "workers.worker")
        self.start_module("tasks", "workers.tasks")

    def start_scheduler(self, name: str = "scheduler") -> None:
        self.start_module(name, "workers.scheduler")

    def stop(self, name: str, sig: int = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(sig)
        return process.wait(30)

    def web_processes(self) -> list[int]:
        """The pids of the web processes: Gunicorn's children."""
        master = self.processes["web"].pid
        return [int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()]

    def close(self) -> None:
        for name in ("web", "worker", "scheduler", "tasks", "pool"):
            if name in self.processes:
                self.stop(name)

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.http.request(method, self.url + path, timeout=60, **arguments)

    def flush_redis(self) -> None:
        """Erase all that Redis has."""
        with redis.Redis.from_url(self.environ["REDIS_URL"]) as client:
            client.flushall()

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-6000:]}" for path in self.var_dir.glob("*.log"))

    def runtime(self, image: str = "python3", name: str = "python3") -> str:
        """The id of a runtime that is available."""
        for row in self.request("GET", "/v1/runtimes").json():
            if row["image"] == image and row["status"] == "available":
                return str(row["id"])
        answer = self.request("POST", "/v1/runtimes", json={"image": image, "name": name})
        assert answer.status_code == 201, answer.text
        runtime_id = str(answer.json()["id"])

        def available() -> bool:
            row = self.request("GET", f"/v1/runtimes/{runtime_id}").json()
            assert row["status"] != "error", row
            return bool(row["status"] == "available")

        wait_until(f"runtime {runtime_id} is available", available)
        return runtime_id

    def upload(self, source: str, entry: str = "main.main", **fields: Any) -> requests.Response:
        """POST a function of one module, `main`."""
        form = {"name": "f", "runtime_id": fields.pop("runtime_id", None) or self.runtime(), "entry": entry}
        form |= {"code": '{"source": "package"}'} | {key: str(value) for key, value in fields.items()}
        files = {"package": ("f.zip", package(main=source), "application/zip")}
        return self.request("POST", "/v1/functions", data=form, files=files)

    def function(self, source: str, entry: str = "main.main", **fields: Any) -> str:
        """The id of a new function of one module, `main`."""
        answer = self.upload(source, entry, **fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def call(self, function_id: str, input: Any = None, **fields: Any) -> dict[str, Any]:
        """Run a function and return its execution."""
        answer = self.request("POST", "/v1/executions", json={"function_id": function_id, "input": input, **fields})
        assert answer.status_code == 201, f"{answer.status_code} {answer.text}\n{self.logs()}"
        return dict(answer.json())

    def accept(self, function_id: str, input: Any = None, **fields: Any) -> str:
        """Have a function run later, and return the id of its execution."""
        return str(self.call(function_id, input, sync=False, **fields)["id"])

    def execution(self, execution_id: str) -> dict[str, Any]:
        return dict(self.request("GET", f"/v1/executions/{execution_id}").json())

    def wait_for_attempt(self, execution_id: str) -> None:
        """Wait until a worker runs an execution."""
        wait_until(f"execution {execution_id} runs", lambda: execution_id in self.running_executions())

    def running_executions(self) -> list[str]:
        """The executions that workers run now."""
        workers = self.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()
        return [worker["lease"]["execution_id"] for worker in workers if worker["lease"] is not None]

    def ended(self, execution_id: str) -> dict[str, Any]:
        """An asynchronous execution, as soon as it has ended."""

        def look() -> dict[str, Any] | None:
            found = self.execution(execution_id)
            return found if found["status"] != "running" else None

        return dict(wait_until(f"execution {execution_id} has ended", look))

    def log_of(self, execution: Mapping[str, Any]) -> str:
        return self.request("GET", f"/v1/executions/{execution['id']}/log").text

    def capacity(self, runtime_id: str) -> dict[str, int]:
        return dict(self.request("GET", f"/v1/runtimes/{runtime_id}/pool").json()["capacity"])


@contextlib.contextmanager
def running_service(
    database_url: str = "",
    root: Path = ROOT,
    *,
    new_interpreters: bool = False,
    with_workers: bool = False,
    redis_url: str = "",
    **settings: Any,
) -> Iterator[Service]:
    """Start everything, wait until it is ready, and end all of it afterwards.

    Args:
        database_url: names the database; empty: SQLite.
        root: where its code is.
        new_interpreters: as of `Service`. Needed for other code than this, and where the memory, the environment or
            the command line of the processes counts.
        with_workers: also start the processes that run asynchronous executions.
        redis_url: names Redis; empty: a Valkey is started.
        settings: all other settings.
    """
    with (
        tempfile.TemporaryDirectory(prefix="qf-") as folder,
        contextlib.nullcontext(redis_url) if redis_url else valkey() as redis_in_use,
        settings_of_orchestrator(settings) as settings,
    ):
        port = free_port()
        environ = {key: value for key, value in os.environ.items() if not key.startswith("GUNICORN")}
        environ |= {
            "PORT": str(port),
            "VAR_DIR": folder,
            "REDIS_URL": redis_in_use,
            "DATABASE_URL": database_url,
            "TZ": "UTC",
            "SHUTDOWN_GRACE_S": "2",  # calls that tests hold do not delay their end
        }
        environ |= {name.upper(): str(value) for name, value in settings.items()}
        if new_interpreters:
            migrate = [sys.executable, "-m", "qinling_falcon.models.migrate"]
            subprocess.run(migrate, cwd=root, env=environ, check=True, capture_output=True)
        else:
            make_tables(read_settings(environ))
        service = Service(port, Path(folder), environ, root, new_interpreters=new_interpreters)
        try:
            service.start_pool()
            service.start_web()
            if with_workers:
                service.start_workers()
            wait_until("the service is ready", lambda: service.request("GET", "/readyz").status_code == 200)
            yield service
        finally:
            service.close()
            remove_groups_of(Path(folder))
