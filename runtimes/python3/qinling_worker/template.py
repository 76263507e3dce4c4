"""The template process: forks children on command, and ends all their processes.

It never runs user code and never had the worker's secret. It keeps the capabilities
to change its uid and to kill, and uses them only in its forks. Commands and reports
are JSON datagrams on one socket. A child's file descriptors are sent with the command.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import random
import select
import signal
import socket
import sys
import time
import traceback
import types
from collections.abc import Callable
from typing import Any, NoReturn

from . import cleaner, linux, memory, seccomp
from .clone import fork
from .config import ChildConfig
from .confine import become_child, forbid_core_dumps, make_rules, prepare_for_forks

_CLEAN_TIMEOUT_S = 5.0
_CLEAN_ATTEMPTS = 3
_MAX_DESCRIPTORS = 8  # of one command
# When processes are looked at again after they were stopped. Each further look is after twice the time of the last one.
_LOOK_AGAIN_S, _LONGEST_LOOK_S = 1.0, 60.0
_END_TIMEOUT_S = 0.1  # a process closes its descriptors a moment before it has ended


class Template:
    """Serves the supervisor's commands. When the supervisor ends, it ends all its children and itself.

    Args:
        commands: the socket to the supervisor.
        run_child: `child.run`, as `warm.import_child` has imported it.
        counted_alone: whether RLIMIT_NPROC counts only this process and those below it.
    """

    def __init__(
        self, commands: socket.socket, run_child: Callable[..., NoReturn], *, counted_alone: bool = False
    ) -> None:
        self._commands = commands
        self._run_child = run_child
        self._counted_alone = counted_alone
        self._supervisor = os.getppid()
        self._config: ChildConfig | None = None
        self._rules: int | None = None
        self._child_pid = 0
        self._cleaner: int | None = None
        self._sweeper: int | None = None
        self._killing = False  # processes that end from now on were killed by us
        self._clean_until = 0.0
        self._attempts = 0
        self._paused: set[int] = set()  # the processes to continue at `resume`
        self._look_at: float | None = None  # when they are looked at again
        self._look_s = _LOOK_AGAIN_S
        self._entrances: list[int] = []
        linux.close_all_but([0, 1, 2, commands.fileno()])
        _open_null()
        linux.set_child_subreaper()
        linux.keep_capabilities((linux.CAP_KILL, linux.CAP_SETUID, linux.CAP_SETGID))
        forbid_core_dumps()
        self._filtered = _load_filter()
        self._wakeup, wakeup_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_end, False)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor says when it is over
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def run(self) -> NoReturn:
        """Work until the supervisor's end of the socket is closed."""
        poll = select.poll()
        poll.register(self._commands, select.POLLIN)
        poll.register(self._wakeup, select.POLLIN)
        while True:
            wake = self._look_at if self._cleaner is None else self._clean_until
            wait_ms = None if wake is None else max(0.0, wake - time.monotonic()) * 1000 + 1
            ready = [fd for fd, _ in poll.poll(wait_ms)]
            if self._wakeup in ready:
                os.read(self._wakeup, 4096)
                self._reap()
            if self._commands.fileno() in ready:
                self._obey()
            if self._cleaner is not None and time.monotonic() >= self._clean_until:
                os.kill(self._cleaner, signal.SIGKILL)  # the processes that it should end have stopped it
                self._clean_until = time.monotonic() + _CLEAN_TIMEOUT_S
            if self._look_at is not None and time.monotonic() >= self._look_at:
                self._look_again()

    def _obey(self) -> None:
        try:
            data, ancillary, _, _ = self._commands.recvmsg(64 * 1024, socket.CMSG_SPACE(4 * _MAX_DESCRIPTORS))
        except ConnectionResetError:  # it was killed before it had read all our reports
            self._end()
        if not data:
            self._end()
        command = json.loads(data)
        fds = array.array("i")
        for _, _, content in ancillary:
            fds.frombytes(content)
        if command["do"] == "configure":
            self._config = ChildConfig.decode(command["config"].encode())
            self._rules = make_rules(self._config)
            self._entrances = list(fds)
        elif command["do"] == "spawn":
            self._spawn(fds[0], fds[1], command)
        elif command["do"] == "sweep":
            self._sweep()
        elif command["do"] == "pause":
            self._pause()
        elif command["do"] == "resume":
            cleaner.signal_all(self._paused, signal.SIGCONT)
            self._paused, self._look_at = set(), None
        elif command["do"] == "clean":
            if command["ended"]:
                self._await_end()
            self._attempts = 0
            self._killing, self._look_at = True, None
            self._clean()

    def _pause(self) -> None:
        self._paused, all_stopped = cleaner.stop_descendants(os.getpid())
        # A single process can't be woken by another one. On a busy host, a process may stop later than it is looked at.
        if not all_stopped or len(memory.below(os.getpid())) > 1:
            self._look_s = _LOOK_AGAIN_S
            self._look_at = time.monotonic() + self._look_s

    def _look_again(self) -> None:
        """Report if a process is awake that `_pause` should have stopped, or a new one."""
        processes = memory.below(os.getpid())
        self._look_at = None
        if any(map(memory.is_awake, processes)):
            self._report(event="awake")
        elif len(processes) > 1:
            self._look_s = min(2 * self._look_s, _LONGEST_LOOK_S)
            self._look_at = time.monotonic() + self._look_s

    def _spawn(self, channel: int, log: int, command: dict[str, Any]) -> None:
        assert self._config is not None
        try:
            pid = fork()
        except OSError as error:
            self._report(event="unspawned", error=str(error))
        else:
            if pid == 0:
                self._become_child(self._config, channel, log, command)
            self._child_pid, self._killing = pid, False
            self._report(event="spawned", pid=pid)
        os.close(channel)
        os.close(log)

    def _become_child(self, config: ChildConfig, channel: int, log: int, command: dict[str, Any]) -> NoReturn:
        try:
            _forget_signals()
            random.seed()  # from the kernel, as after `os.fork`
            # The template does not enter this group: if a function used up its memory, the kernel could kill the
            # template. The kernel does not let it fork the child into this group ("The sandbox" in
            # docs/architecture.md).
            for entrance in self._entrances:
                os.write(entrance, b"0")
            _open_null()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.set_inheritable(channel, False)
            os.set_inheritable(log, False)
            linux.close_all_but([0, 1, 2, channel, log] + ([] if self._rules is None else [self._rules]))
            become_child(config, self._rules, self._counted_alone)
            if self._filtered:
                change_rule = _change_rule(config, self._supervisor, command["per_call"])
                seccomp.load_for_child(change_rule, has_memory_group=config.has_memory_group)
            if command["per_call"]:
                prepare_for_forks()
            sys.modules["__main__"] = types.ModuleType("__main__")
            sys.path[0] = config.code_dir
            sys.argv[:] = [""]
            bare = memory.own_resident()
            options = command["entry"], config.code_dir, bare, config.max_result_size, command["per_call"]
            self._run_child(channel, log, *options)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _await_end(self) -> None:
        """Wait briefly for a child that is ending, and report its exit code."""
        deadline = time.monotonic() + _END_TIMEOUT_S
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):  # reaped, and reported
            while os.waitid(os.P_PID, self._child_pid, options) is None and time.monotonic() < deadline:
                time.sleep(0.001)
        self._reap()

    def _clean(self) -> None:
        """End every process of the child, and empty the scratch folders."""
        assert self._config is not None
        self._attempts += 1
        if self._config.child_uid is None:
            gone = self._kill_all(self._config, self._reap)
            cleaner.sweep_scratch(self._config)
            self._report(event="cleaned", ok=gone)
            return
        pid = cleaner.fork_patiently(self._config.child_uid)
        if pid == 0:
            try:
                _forget_signals()
                os.close(self._commands.fileno())
                cleaner.clean_as_child(self._config)
            finally:
                os._exit(1)
        self._cleaner = pid
        self._clean_until = time.monotonic() + _CLEAN_TIMEOUT_S

    def _kill_all(self, config: ChildConfig, reap: Callable[[], None]) -> bool:
        """End every process below this one, where they have the same uid. Returns False if some are left."""
        return cleaner.kill_namespace(reap) if config.is_init else cleaner.kill_descendants(os.getpid())

    def _sweep(self) -> None:
        """Empty the scratch folders. No user code may run meanwhile, because this looks only once at what is there."""
        assert self._config is not None
        if self._config.child_uid is None:
            cleaner.sweep_scratch(self._config)
            self._report(event="swept", ok=True)
            return
        self._sweeper = cleaner.fork_patiently(self._config.child_uid)
        if self._sweeper == 0:
            try:
                _forget_signals()
                os.close(self._commands.fileno())
                cleaner.sweep_as_child(self._config)
            finally:
                os._exit(1)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._paused.discard(pid)  # another process may get this pid
            if pid == self._sweeper:
                self._sweeper = None
                self._report(event="swept", ok=status == 0)
                continue
            if pid != self._cleaner:
                self._report(event="exited", pid=pid, code=None if self._killing else linux.exit_code(status))
                continue
            self._cleaner = None
            if status != 0 and self._attempts < _CLEAN_ATTEMPTS:
                self._clean()
            else:
                self._report(event="cleaned", ok=status == 0)

    def _report(self, **event: Any) -> None:
        try:
            self._commands.send(json.dumps(event).encode())
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        if self._config is not None and self._config.child_uid is None:
            self._kill_all(self._config, _reap_silently)
        elif self._config is not None and self._cleaner is None:
            pid = cleaner.fork_patiently(self._config.child_uid or 0)
            if pid == 0:
                try:
                    cleaner.clean_as_child(self._config)
                finally:
                    os._exit(1)
            os.waitpid(pid, 0)
        os._exit(0)


def _change_rule(config: ChildConfig, supervisor: int, by_call: bool) -> seccomp.ChangeRule | None:
    """What the seccomp filter of this process, a new child, lets it change. `supervisor`: the pid of the supervisor.

    The processes of the platform that have the uid of the function may not be changed. With isolation by call, this
    process is one of them, because later calls are forked from it. Without a uid and a PID namespace of the worker's
    own, all processes of the service have this uid. There are too many to name, so only the caller may be changed.
    """
    child = os.getpid()
    if config.child_uid is not None:
        return seccomp.ChangeRule((child,), allowed=False) if by_call else None
    if not config.own_pids:
        return seccomp.ChangeRule((0,) if by_call else (0, child), allowed=True)
    of_platform = {1, supervisor, os.getppid(), *([child] if by_call else [])}  # 1 may be bubblewrap's
    return seccomp.ChangeRule(tuple(sorted(of_platform)), allowed=False)


def _load_filter() -> bool:
    """Load the seccomp filter into this process and all that it forks. Returns whether the kernel can do that."""
    try:
        seccomp.load()
    except OSError as error:
        # Not an error: the service has decided at its start whether functions may run without it (see `make doctor`).
        sys.stderr.write(f"The seccomp filter can't be loaded: {error}\n")
        return False
    return True


def _reap_silently() -> None:
    """Reap all that have ended, without a report."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _open_null() -> None:
    """Open `/dev/null` as descriptor 0: anew, because processes that share an open file share its flags and owner."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)


def _forget_signals() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
