"""The service on one machine, from its lock to its last process."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from qinling_falcon.orchestrators import runtime_table
from qinling_falcon.settings import Settings
from workers.exit_codes import REGISTRATION_FAILED, SECRETS_UNREADABLE
from workers.run import linux, valkey
from workers.run.client import Api
from workers.run.errors import StartError, Stopped
from workers.run.neighbours import neighbours, wait_for
from workers.run.runtimes import find_runtime
from workers.run.secret_key import keep_secret_key
from workers.run.signals import StopSignals
from workers.run.supervision import Program, Supervisor, can_leash, read_procfile
from workers.run.welcome import make_hello, welcome

logger = logging.getLogger(__name__)

RUN_ID = "QINLING_RUN_ID"
_VALKEY = Program("valkey", "python -m workers.run.valkey")
_RELEASE = "release"
# It starts first and stops last, because the other processes call it.
_POOL = "pool"
# At a stop, `worker` cancels the executions that outlast its grace, and queues them again. It gives up after 10 s
# (`jobs/drain.py`), and then closes its connections.
_HAND_BACK_S = 15.0
_FAILURES = {
    REGISTRATION_FAILED: "the local runtimes can't be registered",
    SECRETS_UNREADABLE: "the stored secrets can't be read",
}
_START_TIMEOUT_S = 60.0
# A program that died so often while starting won't start.
_MOST_DEATHS = 3
_OPEN_FILES = 65_536
_LOOK_EVERY_S = 2.0


class Service:
    """Starts everything of one `VAR_DIR`, keeps it running, ends it.

    Args:
        settings: those of all processes.
        root: folder of the checkout.
        signals: when to stop.
    """

    def __init__(self, settings: Settings, root: Path, signals: StopSignals):
        self._settings = settings
        self._root = root
        self._signals = signals
        self._var_dir = settings.var_dir.absolute()
        self._log_dir = self._var_dir / "log"
        self._api = Api(settings)
        self._supervisor: Supervisor | None = None
        self._release: subprocess.Popen[bytes] | None = None
        self._callers: list[str] = []  # the processes that call the pool
        # The last part of the time to stop belongs to the pool and Valkey, which the callers need until their own end.
        self._drain_s = settings.shutdown_grace_s - min(2.0, settings.shutdown_grace_s / 4)

    def run(self) -> None:
        """Run until a signal comes.

        Raises:
            StartError: it can't start, or it ended by itself; nothing is left running.
        """
        self._make_folders()
        with self._locked():
            logger.info("starting", extra={"host": self._settings.host, "port": self._settings.port})
            linux.adopt_orphans()
            self._end_leftovers()
            try:
                print(self._start(), flush=True)
                self._watch()
            except Stopped:
                pass
            finally:
                self._stop()

    def _make_folders(self) -> None:
        try:
            self._settings.socket_dir.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StartError(f"VAR_DIR={self._settings.var_dir}: can't be used: {error}") from error
        found = self._settings.socket_dir.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise StartError(f"{self._settings.socket_dir} is not ours: remove it, or choose another VAR_DIR")
        self._settings.socket_dir.chmod(0o700)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold `VAR_DIR` for this process alone; the kernel lets go when it ends, however it does."""
        with (self._var_dir / "run.lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.seek(0)
                raise StartError(
                    f"VAR_DIR={self._settings.var_dir} is in use by process {lock.read().strip() or '?'}:"
                    " stop that one, or choose another folder and port: make run VAR_DIR=var2 PORT=7071"
                ) from None
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def _end_leftovers(self) -> None:
        """End what an earlier run left, and mark what this one starts."""
        note = self._var_dir / "run.id"
        if note.exists():
            earlier = note.read_text().strip()
            left = linux.kill_all(lambda: linux.marked(RUN_ID, earlier), 5.0)
            if left:
                logger.warning("ended processes of an earlier run", extra={"pids": sorted(left)})
        run_id = str(uuid.uuid4())
        note.write_text(run_id)
        os.environ[RUN_ID] = run_id

    def _start(self) -> str:
        local = [name for name, _ in runtime_table.registered(self._settings)]
        self._check_port()
        if not can_leash():
            print("setpriv is missing: processes outlive a process manager that is killed", file=sys.stderr)
        self._prepare_environment()
        wait_for(neighbours(self._settings), self._signals, _START_TIMEOUT_S)
        processes = read_procfile(self._root / "Procfile")
        release = next((program for program in processes if program.name == _RELEASE), None)
        programs = [program for program in processes if program.name != _RELEASE]
        programs.sort(key=lambda program: program.name != _POOL)
        self._callers = [program.name for program in programs if program.name != _POOL]
        embedded = [] if self._settings.redis_url else [_VALKEY]
        self._supervisor = Supervisor(
            [*embedded, *programs],
            log_dir=self._log_dir,
            socket_dir=self._settings.socket_dir,
            environ=os.environ,
            stop_s=self._settings.shutdown_grace_s + _HAND_BACK_S,
        )
        self._supervisor.start()
        self._wait(self._supervisor.answers, "the process manager", "supervisord")
        if embedded:
            self._supervisor.start_program(_VALKEY.name)
        if release:
            self._run_release(release)
        if embedded:
            self._wait(lambda: valkey.answers(self._settings), "Valkey", _VALKEY.name)
        for program in programs:
            self._supervisor.start_program(program.name)
        self._wait(self._api.ready, "the service", "web")
        runtime_id = find_runtime(self._api, self._settings, local, self._wait)
        return welcome(
            self._api.url,
            runtime_id,
            make_hello(self._var_dir),
            self._log_dir,
            self._settings.shutdown_grace_s,
            tokens=self._settings.auth_mode == "keystone",
        )

    def _check_port(self) -> None:
        """Find a taken port before anything is started for it."""
        host, port = self._settings.host, self._settings.port
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StartError(
                    f"PORT={port}: can't listen on {host}:{port}: {error.strerror}."
                    f" Choose another: make run PORT={port + 1 if port < 65535 else 7070}"
                ) from error

    def _prepare_environment(self) -> None:
        """What all processes inherit."""
        os.environ.update(
            PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            VAR_DIR=str(self._var_dir),
            TZ="UTC",
            PYTHONUNBUFFERED="1",
            SHUTDOWN_GRACE_S=f"{self._drain_s:g}",
        )
        if not self._settings.secret_key_list:
            os.environ["SECRET_KEYS"] = keep_secret_key(self._var_dir)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))

    def _run_release(self, release: Program) -> None:
        """Run the release step to its end, and print its standard error."""
        with (self._log_dir / f"{release.name}.log").open("wb") as log, tempfile.TemporaryFile() as errors:
            self._release = subprocess.Popen(
                [*(["setpriv", "--pdeathsig", "KILL", "--"] if can_leash() else []), *release.command.split()],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=errors,
                start_new_session=True,
            )
            while self._release.poll() is None:
                if self._signals.wait(0.02):
                    raise Stopped
            errors.seek(0)
            said = errors.read()
            log.seek(0, os.SEEK_END)
            log.write(said)
        if self._release.returncode != 0:
            what = _FAILURES.get(self._release.returncode, "the database can't be prepared")
            raise StartError(f"{what}: `{release.command}` failed", log=release.name)
        if said:
            print(said.decode(errors="replace").rstrip(), file=sys.stderr, flush=True)

    def _wait(self, condition: Callable[[], bool], what: str, log: str) -> None:
        """Wait for `condition`; who dies again and again meanwhile, ends the start."""
        assert self._supervisor is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        deaths: dict[str, int] = {}
        pids: dict[str, int] = {}
        while not condition():
            if self._signals.wait(0.05):
                raise Stopped
            if not self._supervisor.alive():
                raise StartError("the process manager ended", log="supervisord")
            for state in self._supervisor.states():
                if state.pid != pids.get(state.name, state.pid) and pids[state.name]:
                    deaths[state.name] = deaths.get(state.name, 0) + 1
                    if deaths[state.name] >= _MOST_DEATHS:
                        raise StartError(f"`{state.name}` does not start", log=state.name)
                pids[state.name] = state.pid
            if time.monotonic() > deadline:
                raise StartError(f"{what} did not become ready within {_START_TIMEOUT_S:g} s", log=log)

    def _watch(self) -> None:
        """Wait for a signal, and look after what runs."""
        assert self._supervisor is not None
        look_at = time.monotonic()
        while not self._signals.wait(0.5):
            linux.reap_adopted([self._supervisor.pid])
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + _LOOK_EVERY_S
                self._supervisor.hasten()
            if not self._supervisor.alive():
                raise StartError("the process manager ended unexpectedly; all of the service has ended with it")

    def _stop(self) -> None:
        """End all processes within `SHUTDOWN_GRACE_S`, or 20 s later if executions can't be queued again at once."""
        began = time.monotonic()
        logger.info("stopping")
        if self._release is not None and self._release.poll() is None:
            self._release.kill()
            self._release.wait()
        if self._supervisor is not None and self._supervisor.alive():
            self._stop_programs(self._supervisor, began)
        left = linux.kill_all(lambda: linux.descendants() | linux.marked(RUN_ID, os.environ[RUN_ID]), 3.0)
        if left:
            logger.warning("ended what was left", extra={"pids": sorted(left)})
        linux.reap_adopted([])
        self._clean_sockets()
        logger.info("stopped", extra={"took_s": round(time.monotonic() - began, 3)})

    def _stop_programs(self, supervisor: Supervisor, began: float) -> None:
        """Stop the callers of the pool, then the pool, then Valkey. `began` is the start of the stop."""
        grace_s = self._settings.shutdown_grace_s
        rest_s = grace_s - self._drain_s
        stages = [(self._callers, began + self._drain_s + _HAND_BACK_S), ([_POOL], began + grace_s)]
        for names, stop_by in stages:
            # The pool has a moment to end in order, also if its callers have taken all of the time.
            deadline = max(stop_by, time.monotonic() + rest_s / 2)
            supervisor.stop_programs(names, deadline, lambda: self._signals.urgent)
            if self._signals.urgent:
                logger.warning("ending at once")
                supervisor.kill()
                return
        supervisor.stop_programs([_VALKEY.name], time.monotonic() + 1.0, lambda: self._signals.urgent)
        supervisor.end(1.0)

    def _clean_sockets(self) -> None:
        for path in (self._settings.valkey_socket, self._settings.socket_dir / "supervisor.sock"):
            path.unlink(missing_ok=True)
        if self._settings.socket_dir.parent != self._var_dir:
            for path in self._settings.socket_dir.iterdir():
                path.unlink()
            self._settings.socket_dir.rmdir()
