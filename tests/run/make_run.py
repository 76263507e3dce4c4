"""`make run` itself, as a user starts it, and what can be known of it from outside."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.integration.service import ROOT, Service, free_port, wait_until
from tests.run import processes
from tests.support.control_groups import remove_groups_of

_MARK = "QINLING_TEST_MARK"
_CALL = re.compile(r"\s*((?:[A-Z]+=\$\()?curl .*)")
_START_TIMEOUT_S = 90.0
_STOP_TIMEOUT_S = 30.0
# A small service, so that several fit on a small machine.
_SMALL = {"WARM_WORKERS": "2", "MAX_WORKERS": "8"}


class MakeRun(Service):
    """One `make run` in a process group of its own, as a shell would start it.

    Args:
        var_dir: its folder of data.
        settings: further environment variables.
    """

    def __init__(self, var_dir: Path, settings: Mapping[str, Any] | None = None):
        self.port = int((settings or {}).get("PORT") or free_port())
        self.mark = uuid.uuid4().hex
        environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
        environ |= _SMALL | {"PORT": str(self.port), "VAR_DIR": str(var_dir), _MARK: self.mark}
        environ |= {name: str(value) for name, value in (settings or {}).items()}
        # The make that runs these tests hands down what belongs to it alone.
        environ = {name: value for name, value in environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
        super().__init__(self.port, var_dir, environ)
        self.lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)

    def launch(self) -> None:
        """Type `make run`."""
        self._process = subprocess.Popen(
            ["make", "run"],
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader.start()

    def wait_ready(self) -> None:
        """Wait until the calls to try are printed."""

        def ready() -> bool:
            assert self.process.poll() is None, f"make run ended:\n{self.output}"
            return len(self.calls) >= 3

        wait_until("make run is ready", ready, _START_TIMEOUT_S)

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        """All that was printed."""
        return "".join(self.lines)

    @property
    def calls(self) -> list[str]:
        """The printed shell lines, continued ones joined."""
        return [match[1] for line in self.output.replace("\\\n", " ").splitlines() if (match := _CALL.match(line))]

    def wait_end(self) -> int:
        """Wait for make to end, and for all that it printed."""
        code = self.process.wait(_STOP_TIMEOUT_S)
        self._reader.join(_STOP_TIMEOUT_S)
        return code

    def interrupt(self) -> int:
        """Ctrl-C: SIGINT to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.wait_end()

    def terminate(self) -> int:
        """SIGTERM to make alone."""
        self.process.terminate()
        return self.wait_end()

    def left(self) -> dict[int, str]:
        """Live processes of this service, whosever children they are: id and command."""
        found = processes.with_environment(_MARK, self.mark)
        if install_id := self.install_id:
            found |= processes.sandboxed(install_id)
        return {pid: " ".join(processes.command(pid))[:120] for pid in found}

    def wait_nothing_left(self, timeout_s: float) -> None:
        """Wait until nothing of this service is alive."""
        with contextlib.suppress(AssertionError):
            wait_until("nothing is left", lambda: not self.left(), timeout_s)
        left = self.left()
        assert not left, left

    @property
    def install_id(self) -> str:
        """What the workers of this folder of data carry in their command lines and groups."""
        path = self.var_dir / "install-id"
        return path.read_text().split()[0] if path.exists() else ""

    def pid_of(self, *words: str) -> int:
        """The oldest process of this service whose command line has all of `words`."""
        found = [
            pid
            for pid in sorted(processes.with_environment(_MARK, self.mark))
            if all(any(word in part for part in processes.command(pid)) for word in words)
        ]
        parents = processes.table()
        return next((pid for pid in found if parents.get(pid) not in found), 0)

    def manager(self) -> int:
        """The process manager: what `make run` becomes."""
        return self.pid_of("workers.run", "--end-with-parent") or self.pid_of("workers.run")

    def supervisord(self) -> int:
        """The part of the process manager that starts again what dies."""
        return self.pid_of("supervisor.supervisord")

    def strays(self) -> dict[int, str]:
        """Live processes that nobody looks after: below the process manager, but not below what it started."""
        manager, keeper = self.manager(), self.supervisord()
        lost = {}
        left, parents = self.left(), processes.table()
        for pid, words in left.items():
            line = processes.ancestors(pid, parents)
            if pid not in (self.process.pid, manager, keeper) and line and keeper not in line:
                lost[pid] = words
        return lost

    def lives_exactly(self, worker_ids: set[str]) -> bool:
        """Whether these workers have live processes, and no others.

        Only control groups tell names: forked workers have their zygote's command line. An ordinary user has none, so
        there workers are counted.
        """
        named = self._worker_ids()
        return worker_ids == named if named else len(worker_ids) == self.workers_alive()

    def workers_alive(self) -> int:
        """How many workers have a live process: each is the first process of a PID namespace below its zygote's."""
        namespaces = (processes.ids_in_namespaces(pid) for pid in processes.sandboxed(self.install_id))
        return sum(len(ids) == 3 and ids[-1] == 1 for ids in namespaces)

    def _worker_ids(self) -> set[str]:
        pattern = re.compile(rf"/qinling-falcon-{self.install_id}/([^/\n]+)")
        found = set()
        for pid in processes.sandboxed(self.install_id):
            with contextlib.suppress(OSError):
                found.update(pattern.findall(Path(f"/proc/{pid}/cgroup").read_text()))
        return {name for name in found if not name.startswith("zygote-")}

    def log_tails(self) -> str:
        """The ends of all logs, for a failing test's report."""
        paths = sorted((self.var_dir / "log").glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-4000:]}" for path in paths)

    def logs(self) -> str:
        return self.log_tails()

    def close(self) -> None:
        """End it, whatever it takes."""
        if self._process is None:
            return
        if self._process.poll() is None:
            try:
                self.terminate()
            except subprocess.TimeoutExpired:
                pass
        for pid in self.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)


@contextlib.contextmanager
def var_dir() -> Iterator[Path]:
    """A short folder of data; removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="qf-run-"))
    try:
        yield folder
    finally:
        remove_groups_of(folder)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def make_run(folder: Path, **settings: Any) -> Iterator[MakeRun]:
    """A ready service, ended afterwards."""
    running = MakeRun(folder, settings)
    try:
        running.launch()
        running.wait_ready()
        yield running
    finally:
        running.close()


def ends_within(timeout_s: float, running: MakeRun) -> bool:
    """Whether `make run` itself ends in time."""
    end = time.monotonic() + timeout_s
    while running.process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    return running.process.poll() is not None
