"""Supervisor under our command: its configuration from the Procfile, its start, its state, its end."""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

# What the kernel does to a command when its parent ends: nothing outlives its manager.
_LEASH = ["setpriv", "--pdeathsig", "KILL", "--"]
_RPC_ERRORS = (OSError, http.client.HTTPException, xmlrpc.client.Error)


@dataclass(frozen=True, slots=True)
class Program:
    """One line of the Procfile."""

    name: str
    command: str


@dataclass(frozen=True, slots=True)
class ProgramState:
    """What Supervisor says of a program: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED or FATAL."""

    name: str
    status: str
    pid: int
    reason: str


def read_procfile(path: Path) -> list[Program]:
    """The programs of a Procfile, in its order.

    Raises:
        ValueError: a line is neither a comment nor `name: command`.
    """
    programs = []
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        if not colon or not name.strip().isidentifier() or not command.strip():
            raise ValueError(f"{path.name}: expected `name: command`, found {line!r}")
        programs.append(Program(name.strip(), command.strip()))
    return programs


def can_leash() -> bool:
    """Whether this machine can end children with their parent (`setpriv` of util-linux)."""
    return shutil.which(_LEASH[0]) is not None


class Supervisor:
    """One supervisord with its programs, each in a process group of its own and none of them in the terminal's.

    Args:
        programs: what it runs, in the order of their starts; none starts by itself.
        log_dir: folder of the programs' logs, `NAME.log`.
        socket_dir: private folder for its control socket.
        environ: environment of all programs.
        stop_s: time that a program has from SIGTERM to SIGKILL.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        *,
        log_dir: Path,
        socket_dir: Path,
        environ: Mapping[str, str],
        stop_s: float,
    ):
        self._socket = socket_dir / "supervisor.sock"
        self._config = socket_dir / "supervisord.conf"
        # Whatever the characters of the logs' folder mean in an ini file, those of this link mean nothing.
        self._logs = socket_dir / "logs"
        self._logs.unlink(missing_ok=True)
        self._logs.symlink_to(log_dir)
        self._environ = dict(environ)
        self._leash = _LEASH if can_leash() else []
        self._socket.unlink(missing_ok=True)
        self._config.write_text(self._render(programs, stop_s))
        self._waiting: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self._rpc_proxy: xmlrpc.client.ServerProxy | None = None

    def start(self) -> None:
        """Start supervisord, in a session of its own, so that a terminal's Ctrl-C reaches none of it."""
        with (self._logs / "supervisord.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._leash, sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id of supervisord, 0 before its start."""
        return self._process.pid if self._process else 0

    def alive(self) -> bool:
        """Whether supervisord runs."""
        return self._process is not None and self._process.poll() is None

    def answers(self) -> bool:
        """Whether supervisord can be commanded already."""
        try:
            self._rpc("getState")
        except _RPC_ERRORS:
            return False
        return True

    def states(self) -> list[ProgramState]:
        """State of every program; none when supervisord doesn't answer."""
        try:
            rows = self._rpc("getAllProcessInfo")
        except _RPC_ERRORS:
            return []
        return [ProgramState(row["name"], row["statename"], row["pid"], row["spawnerr"]) for row in rows]

    def start_program(self, name: str) -> None:
        """Start one program, and from now on start it again whenever it ends."""
        self._rpc("startProcess", name, False)

    def hasten(self) -> None:
        """Start at once what has died too often to be started soon; to be called every few seconds.

        Supervisor waits a second longer after each death in a row, and would keep a service waiting that could work
        again, because a database has come back, say.
        """
        states = self.states()
        waiting = {state.name for state in states if state.status == "BACKOFF"}
        idle = {state.name for state in states if state.status in ("STOPPED", "FATAL")}
        try:
            for name in waiting & self._waiting:
                self._rpc("stopProcess", name, False)
            for name in idle | (waiting & self._waiting):
                self._rpc("startProcess", name, False)
        except _RPC_ERRORS:
            pass  # its state has changed meanwhile, and the next look sees how
        self._waiting = waiting

    def stop_programs(self, names: Sequence[str], deadline: float, hurry: Callable[[], bool]) -> None:
        """SIGTERM to the named programs; at `deadline` (of `time.monotonic`) SIGKILL.

        Returns when they have ended, or as soon as `hurry` says so.
        """
        for name in names:
            try:
                self._rpc("stopProcess", name, False)
            except xmlrpc.client.Fault:
                pass  # it doesn't run
            except _RPC_ERRORS:
                return  # supervisord is gone, and all of it with it
        killed = False
        while self.alive() and not hurry():
            running = [state for state in self.states() if state.name in names and state.pid]
            if not running:
                return
            if not killed and time.monotonic() > deadline:
                killed = True
                for state in running:
                    _kill_group(state.pid)
            time.sleep(0.02)

    def end(self, timeout_s: float) -> None:
        """End supervisord itself with what still runs; SIGKILL after `timeout_s`."""
        if self._process is None:
            return
        try:
            self._rpc("shutdown")
            self._process.wait(timeout_s)
        except (*_RPC_ERRORS, subprocess.TimeoutExpired):
            self.kill()

    def kill(self) -> None:
        """SIGKILL to supervisord; the kernel ends its programs with it."""
        if self._process is not None:
            groups = [state.pid for state in self.states() if state.pid] if not self._leash else []
            self._process.kill()
            self._process.wait()
            for pid in groups:
                _kill_group(pid)

    def _rpc(self, method: str, *args: object) -> Any:
        if self._rpc_proxy is None:
            self._rpc_proxy = xmlrpc.client.ServerProxy(
                "http://localhost", transport=SupervisorTransport(serverurl=f"unix://{self._socket}")
            )
        try:
            return getattr(self._rpc_proxy.supervisor, method)(*args)
        except xmlrpc.client.Fault:
            raise
        except _RPC_ERRORS:
            self._rpc_proxy = None  # the next call connects anew
            raise

    def _render(self, programs: Sequence[Program], stop_s: float) -> str:
        sections: dict[str, dict[str, object]] = {
            "supervisord": {
                "nodaemon": "true",
                "silent": "true",
                "nocleanup": "true",
                "logfile": self._logs / "supervisord.log",
                "logfile_maxbytes": "5MB",
                "logfile_backups": 2,
                "pidfile": self._socket.with_name("supervisord.pid"),
                "minfds": 1024,
            },
            "unix_http_server": {"file": self._socket, "chmod": "0600"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
        }
        for priority, program in enumerate(programs, 1):
            sections[f"program:{program.name}"] = {
                "command": " ".join([*self._leash, program.command]).replace("%", "%%"),
                "priority": priority,  # on a SIGTERM to supervisord itself, the highest stops first
                "autostart": "false",
                "autorestart": "true",
                "startsecs": 1,
                "startretries": 1_000_000,
                "stopsignal": "TERM",
                "stopwaitsecs": max(1, round(stop_s)),
                "killasgroup": "true",
                "redirect_stderr": "true",
                "stdout_logfile": self._logs / f"{program.name}.log",
                "stdout_logfile_maxbytes": "10MB",
                "stdout_logfile_backups": 3,
            }
        lines = []
        for section, options in sections.items():
            lines += [f"[{section}]", *(f"{name} = {value}" for name, value in options.items()), ""]
        return "\n".join(lines)


def _kill_group(pid: int) -> None:
    """SIGKILL to a program and all of its process group, which has the program's id."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
