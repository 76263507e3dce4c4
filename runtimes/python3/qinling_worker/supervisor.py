"""The supervisor: keeps one child ready, and decides how each execution ends.

It runs no user code. It has the worker's secret, but no capability. There is one child
at a time. The child is `STARTING` until the function is loaded, then `IDLE` or `BUSY`.
If a call does not end cleanly, the state is `CLEANING`: the template ends all processes
of the child and empties its folders, and a new child is forked.

With isolation by call, the child that has loaded the function is `_loaded`, and `_child`
is the process that it has forked for the next call. After a call the state is `RENEWING`
until this process has ended, the folders are empty, and the next one is there. If
anything else is left of the call, all is cleaned, and the function is loaded again.
Without isolation by call, the state is `RENEWING` while full folders are emptied.
"""

from __future__ import annotations

import enum
import os
import signal
import socket
import time
from typing import Any

from . import frames, memory, outcomes
from .calls import Call
from .child_memory import ChildMemory
from .child_process import ChildProcess
from .config import Config
from .endpoints import Endpoints
from .freezer import Freezer
from .json_text import is_json
from .linux import LOST_CHANNEL
from .loaded_process import LoadedProcess
from .loop import Loop
from .outcomes import Outcome
from .scratch import ScratchSpace
from .target import Target
from .template_link import TemplateLink

# The limits of a shorter call are not checked while it runs.
_SHORT_CALL_S = 0.001
_CHECK_INTERVAL_S = 0.02
# Where a control group bounds the memory as well, limits are checked less often: each check wakes this process.
_FIRST_CHECK_S = 0.05
_LONGEST_INTERVAL_S = 0.5
_CHECK_SHARE = 20  # checks of the memory of many processes take at most one part in so many of the time
_OWN_THREADS = 2  # this process and the template, in the count of a container
_IDLE_S = 0.1  # a child that has been idle for so long is frozen
# The memory of a frozen child is checked again, each time after twice the time, up to this one. Its processes may have
# taken memory after the check before, because on a busy host they stop later than they are told to.
_LAST_LOOK_S = 3.2
_CLEAN_TIMEOUT_S = 25.0
_FORK_TIMEOUT_S = 3.0
# For the end of a call's process, and of those that it has left, after the answer. `per_call.py` kills a process that
# goes on, and reports others that do. It takes longer only to end processes with much memory.
_END_TIMEOUT_S = 2.0
_MAX_RESTARTS = 3


class State(enum.Enum):
    """What the child is doing."""

    ABSENT = 1
    STARTING = 2
    IDLE = 3
    BUSY = 4
    CLEANING = 5
    RENEWING = 6


class Supervisor:
    """One worker's supervisor.

    Args:
        config: the configuration from the orchestrator.
        listener: the listening socket for requests.
        commands: the socket to the template process.
        template: the pid of the template process.

    Attributes:
        target: what is loaded, until the worker ends.
    """

    def __init__(self, config: Config, listener: socket.socket, commands: socket.socket, template: int) -> None:
        self._config = config
        self._loop = Loop()
        self._state = State.ABSENT
        self.target: Target | None = None
        self._child: ChildProcess | None = None
        self._loaded: LoadedProcess | None = None
        self._call: Call | None = None
        self._load_failure: tuple[Outcome, str] | None = None
        self._has_loaded = False  # the child has imported the function
        self._gone_in: State | None = None  # the child's state when the supervisor found that it had ended
        self._oom = memory.OomKills(config.memory_fds.get("events"))
        self._highest_token = -1
        self._wake: float | None = None
        self._deadline = 0.0  # until when the child may stay in its state
        self._end_by = 0.0  # until when the process of the last call may go on
        self._respawn = False
        self._exit_status: int | None = None
        self._note: str | None = None  # for the log of the next call
        self._look_s = _IDLE_S  # the time until the memory of the frozen child is checked again
        self._memory_check_at = 0.0  # where processes are counted: before this time, their memory is not read again
        self._next_check = 0.0  # when the memory is checked after a short call, too
        self._scratch = ScratchSpace(config.child.scratch_dirs, config.tmp_size, config.scratch_sizes)
        self._template = TemplateLink(self._loop, commands, template, self._on_report)
        self._template.configure(config.child, config.entrances)
        self._freezer = Freezer(config.freeze_fd, self._template)
        self._memory = ChildMemory(config, template)
        Endpoints(self, config, self._loop, listener)

    def run(self) -> int:
        """Serve until told to end; the exit status."""
        monotonic, run_once = time.monotonic, self._loop.run_once
        try:
            while self._exit_status is None:
                wake = self._wake
                run_once(None if wake is None else max(0.0, wake - monotonic()))
                wake = self._wake
                if wake is not None and monotonic() >= wake:
                    self._check_limits()
        finally:
            self._thaw()  # the template must run, to end what is below it
        return self._exit_status

    def stop(self, exit_status: int) -> None:
        """End the worker soon, with this exit status."""
        self._exit_status = exit_status

    def load(self, target: Target) -> None:
        """Load a target whose package is unpacked. A worker loads one target in its life."""
        self.target = target
        self._memory.set_limit(target.memory_size)
        if self._config.cpu_shares_fd is not None:
            target.set_cpu(self._config.cpu_shares_fd, self._config.cpu_shares_format)
        self._spawn()

    @property
    def is_busy(self) -> bool:
        """Whether a call runs."""
        return self._call is not None

    def execute(self, call: Call) -> str | None:
        """Run a call, which is answered when it has ended.

        Returns:
            None; or the reason why the call is refused.
        """
        if self.target is None:
            return "not loaded"
        if call.token <= self._highest_token:
            return "stale token"
        if self._call is not None:
            return "busy"
        self._highest_token = call.token
        self._call = call
        if self._state is State.IDLE:
            self._begin()
        elif self._state is State.ABSENT:
            if self._load_failure is None:
                self._spawn()
            else:
                (call.outcome, log), self._load_failure = self._load_failure, None
                self._answer(log.replace("\0", call.execution_id))
        return None

    def cancel(self, execution_id: str) -> bool:
        """Cancel an execution.

        Returns:
            Whether it was running or waiting.
        """
        call = self._call
        if call is None or call.execution_id != execution_id or call.outcome is not None:
            return False
        self._fail(outcomes.cancelled())
        return True

    # An execution's life

    def _begin(self) -> None:
        """Hand the call to the idle child."""
        call, child = self._call, self._child
        assert call is not None and child is not None
        self._thaw()
        self._state = State.BUSY
        child.calls += 1
        call.started = now = time.monotonic()
        self._deadline = now + call.timeout_s
        self._wake = now + min(_FIRST_CHECK_S if self._memory.is_bounded else _SHORT_CALL_S, call.timeout_s)
        child.send(call.body)

    def _on_frame(self, kind: int, duration: float, payload: bytes) -> None:
        child = self._child
        assert child is not None
        if self._state is State.BUSY and frames.VALUE <= kind <= frames.BAD_RESULT:
            self._finish(child, kind, duration, payload)
        elif self._state is State.STARTING and kind == frames.BARE and not self._memory.has_bare_size:
            self._memory.set_bare(int(payload))  # user code runs after this frame
        elif self._state is State.STARTING and kind == frames.LOADED and not self._has_loaded:
            self._has_loaded = True
            if child.pid is not None:
                self._on_loaded(child)
        elif self._state is State.STARTING and kind == frames.LOAD_FAILED:
            self._fail(outcomes.not_loaded(payload.decode("utf-8", "replace")))
        elif self._state is not State.CLEANING:
            self._on_gone(False)  # the child's loop never sends this frame in this state, so user code did

    def _on_loaded(self, child: ChildProcess) -> None:
        """The child has imported the function, and its pid is known."""
        if self._memory.was_exceeded():
            self._fail(self._out_of_memory())
            return
        child.log.drain()  # what the import printed is shown with the first call
        self._memory.note_loaded()
        self._scratch.note_loaded()
        if self.target is not None and self.target.per_call:
            self._memory.count_processes_below(child.pid)
            self._loaded = LoadedProcess(
                child,
                self._on_forked,
                lambda: self._on_gone(True),
                self._on_leftovers,
                lambda: self._on_gone(False),
            )
            self._renew(self._loaded)
        else:
            self._await_call()

    def _finish(self, child: ChildProcess, kind: int, duration: float, payload: bytes) -> None:
        call = self._call
        assert call is not None
        now = time.monotonic()
        elapsed = now - call.started
        if elapsed > _SHORT_CALL_S or now >= self._next_check:
            self._next_check = now + _IDLE_S
            if self._memory.was_exceeded():
                self._fail(self._out_of_memory())
                return
        try:
            text = payload.decode("utf-8")
        except UnicodeDecodeError:
            self._on_gone(False)
            return
        if kind == frames.VALUE:
            try:
                forged = len(payload) > self._config.child.max_result_size or not is_json(text)
            except RecursionError:
                call.outcome = outcomes.bad_result("The result can't be JSON: result is nested too deeply.")
            else:
                if forged:
                    self._on_gone(False)
                    return
                call.outcome = outcomes.succeeded(text)
        else:
            call.outcome = outcomes.bad_result(text) if kind == frames.BAD_RESULT else outcomes.raised(text)
        call.duration_s = duration if 0.0 <= duration <= elapsed else elapsed
        self._state, self._wake = State.IDLE if self._loaded is None else State.RENEWING, now + _IDLE_S
        child.log.drain()
        self._answer(child.log.take(call.execution_id))
        if self._loaded is not None:
            self._renew(self._loaded)
        elif self._state is State.IDLE:
            shortage = self._scratch.shortage(always=elapsed > _SHORT_CALL_S)
            if shortage is not None:
                self._empty_scratch(child, shortage)

    def _empty_scratch(self, child: ChildProcess, shortage: str) -> None:
        """Empty the scratch folders after a call. The child lives on if it has no other threads and processes."""
        self._note = f"The worker has emptied {self._scratch} before this call: {shortage}."
        if child.pid is not None and memory.is_alone(child.pid, self._template.pid):
            self._state = State.RENEWING
            self._deadline = self._wake = time.monotonic() + _CLEAN_TIMEOUT_S
            self._template.sweep()
        else:
            self._clean(respawn=True)

    def _answer(self, log: str) -> None:
        call, self._call = self._call, None
        assert call is not None
        call.answer(log)

    def _fail(self, outcome: Outcome, *, ended: bool = False) -> None:
        """End the current call, if any, and all of the child's processes. The child may have `ended` by itself."""
        loading = self._state is State.STARTING
        if self._call is not None:
            self._call.outcome = outcome
            if self._state is State.BUSY:
                self._call.duration_s = time.monotonic() - self._call.started
        elif loading:
            self._load_failure = (outcome, "")  # the next call gets it, with its log
        if self._state is not State.CLEANING:
            # After a failed load, the next call tries again.
            self._clean(respawn=not loading, ended=ended)

    def _on_gone(self, ended: bool) -> None:
        """Handle a child that has ended, or whose channel carries data that its loop did not send."""
        child = self._child
        if ended and self._state is State.BUSY and self._loaded is not None:
            self._loaded.await_end()
        if self._state in (State.STARTING, State.BUSY):
            assert child is not None
            self._gone_in = self._state
            self._fail(self._how_it_ended(), ended=ended and child.exit_code is None)
        elif self._state is State.IDLE:
            self._clean(respawn=self._has_served())
        elif self._state is State.RENEWING:
            self._load_again()

    # Isolation by call

    def _renew(self, loaded: LoadedProcess) -> None:
        """Replace the process of the last call, which then ends, with a process for the next call."""
        self._state = State.RENEWING
        now = time.monotonic()
        self._deadline = now + _FORK_TIMEOUT_S
        self._end_by = now + _END_TIMEOUT_S
        self._wake = now + _CHECK_INTERVAL_S
        self._child = self._make_child()
        loaded.fork(self._child)

    def _on_forked(self) -> None:
        if self._state is not State.RENEWING:
            return
        assert self._child is not None and self._child.pid is not None
        self._memory.watch(self._child.pid)
        if self._scratch.is_used():
            self._deadline = self._wake = time.monotonic() + _CLEAN_TIMEOUT_S
            self._template.sweep()
        else:
            self._await_call()

    def _on_swept(self, ok: bool) -> None:
        self._scratch.note_empty()
        if ok and self._loaded is None:
            assert self._child is not None
            if self._scratch.start_again():
                self._child.log.add(f"{self._note}\n")
                self._note = None
                self._await_call()
            else:
                self._clean(respawn=True)  # the child has files open that are removed now
        elif ok:
            self._await_call()
        else:
            self._load_again()

    def _on_leftovers(self) -> None:
        if self._state is State.RENEWING:
            self._clean(respawn=True)

    def _load_again(self) -> None:
        """Give up making a process for the next call: end everything, and load the function again."""
        call = self._call
        if call is not None:
            call.restarts += 1
            if call.restarts > _MAX_RESTARTS:
                call.outcome = outcomes.not_loaded(
                    f"The process with the module failed {_MAX_RESTARTS} times to fork a process for the call."
                )
        self._clean(respawn=self._has_served())

    # The child's life

    def _make_child(self) -> ChildProcess:
        return ChildProcess(
            self._loop,
            self._config.child.max_result_size,
            self._config.max_log_size,
            self._on_frame,
            self._on_gone,
            lambda: self._state is not State.IDLE,
        )

    def _await_call(self) -> None:
        """The child is ready: begin the call that waits, if there is one."""
        self._state, self._wake = State.IDLE, time.monotonic() + _IDLE_S
        if self._call is not None:
            self._begin()

    def _has_served(self) -> bool:
        """Whether the child has served a call. One that ends before that is replaced at the next call, not at once."""
        loaded, child = self._loaded, self._child
        return (child is not None and child.calls > 0) or (loaded is not None and loaded.calls > 0)

    def _spawn(self) -> None:
        assert self.target is not None
        self._child = child = self._make_child()
        self._load_failure = self._gone_in = None
        self._has_loaded = False
        self._oom.forget()
        self._state = State.STARTING
        now = time.monotonic()
        self._deadline = now + self._config.load_timeout_s
        self._wake = now + _CHECK_INTERVAL_S
        if self._note is not None:
            child.log.add(f"{self._note} The module is imported anew.\n")
            self._note = None
        self._template.spawn(child.ends, self.target)
        child.close_ends()

    def _clean(self, respawn: bool, *, ended: bool = False) -> None:
        self._state = State.CLEANING
        self._respawn = respawn
        self._deadline = self._wake = time.monotonic() + _CLEAN_TIMEOUT_S
        self._thaw()
        self._template.clean(ended=ended)

    def _on_report(self, report: dict[str, Any] | None) -> None:
        if report is None:
            self._exit_status = 1  # without a template there is no worker
        elif report["event"] == "cleaned":
            if not report["ok"]:
                self._exit_status = 1  # the end of the worker's sandbox ends the processes that are left
            elif self._state is State.CLEANING:
                self._on_cleaned()
        elif report["event"] == "swept":
            if self._state is State.RENEWING:
                self._on_swept(report["ok"])
        elif report["event"] == "awake":
            if self._state is State.IDLE and self._freezer.frozen:
                self._note = "The worker has ended the function's processes, because not all could be stopped."
                self._clean(respawn=self._has_served())
        elif self._child is not None:
            if report["event"] == "spawned":
                self._child.pid = report["pid"]
                self._memory.watch(report["pid"])
                if self._state is State.STARTING and self._has_loaded:
                    self._on_loaded(self._child)
            elif report["event"] == "unspawned":
                self._fail(outcomes.not_loaded(f"The function's process can't be made: {report['error']}."))
            elif self._loaded is not None:
                if report["pid"] == self._loaded.process.pid:
                    if self._child.exit_code is None:
                        self._child.exit_code = report["code"]  # the process of the call has ended with it
                    self._on_gone(True)
            elif report["pid"] == self._child.pid:
                self._child.exit_code = report["code"]
                self._child.read()  # first, because the child may have answered before it ended
                if self._child is not None and self._child.pid == report["pid"]:
                    self._on_gone(True)

    def _on_cleaned(self) -> None:
        child, call = self._child, self._call
        assert child is not None
        if self._gone_in is not None:
            self._explain_end()
        self._child, self._state, self._wake = None, State.ABSENT, None
        self._memory.forget()
        child.log.drain()
        if call is not None and call.outcome is not None:
            if call.outcome.reason == "exited" and call.restarts < _MAX_RESTARTS and child.never_began():
                call.restarts += 1
                call.outcome = None
            else:
                self._answer(child.log.take(call.execution_id))
        elif self._load_failure is not None:
            self._load_failure = (self._load_failure[0], child.log.take("\0"))
        child.close()
        if self._loaded is not None:
            self._loaded.process.close()
            self._loaded = None
        self._scratch.note_empty()
        if self._call is not None or self._respawn:
            self._spawn()

    def _explain_end(self) -> None:
        """Set the outcome from the child's end. It is certain only after all of the child's processes have ended."""
        outcome = self._how_it_ended()
        if self._call is not None and self._call.outcome is not None:
            self._call.outcome = outcome
        elif self._load_failure is not None:
            self._load_failure = outcome, self._load_failure[1]

    def _how_it_ended(self) -> Outcome:
        assert self._child is not None and self.target is not None
        code = self._child.exit_code
        if code == -LOST_CHANNEL:
            code = None
        if code == -signal.SIGKILL and self._oom.happened():
            return self._out_of_memory()
        return outcomes.exited(self.target.entry, code, loading=self._gone_in is State.STARTING)

    # Limits

    def _check_limits(self) -> None:
        """Check the limits of memory and time, of the call, the import and the cleaning."""
        now = time.monotonic()
        call, loaded = self._call, self._loaded
        is_renewing = self._state is State.RENEWING
        is_ending = is_renewing and loaded is not None and loaded.is_ending
        if self._state is State.CLEANING:
            self._exit_status = 1
        elif is_ending and now >= self._end_by:
            self._clean(respawn=True)
        elif self._child is not None and (is_ending or not is_renewing) and (excess := self._excess()) is not None:
            if is_ending or self._state is State.IDLE:  # what the last call has left uses too much
                self._clean(respawn=self._has_served())
            else:
                self._fail(excess)
        elif self._state is State.IDLE:
            self._rest(now)
        elif now < self._deadline:
            # A check is slow on a host with many processes: it may take a twentieth of the time.
            self._scratch.observe()
            took = 0.0 if self._config.child.shares_uid else time.monotonic() - now
            self._wake = min(self._deadline, now + max(self._interval_s(now), _CHECK_SHARE * took))
        elif is_renewing:
            self._load_again()
        elif self._state is State.STARTING:
            assert self.target is not None
            late = f"Its module was not imported within {self._config.load_timeout_s:g} s."
            self._fail(outcomes.not_loaded(f"Function {self.target.entry!r} can't be loaded. {late}"))
        elif self._state is State.BUSY and call is not None:
            self._fail(outcomes.timed_out(call.timeout_s))
            call.duration_s = max(call.duration_s, call.timeout_s)
        else:
            self._wake = None

    def _excess(self) -> Outcome | None:
        """The outcome of an execution whose processes use more than they may at this moment; None: they do not."""
        child = self._config.child
        if child.shares_uid and self._count_threads() > child.max_processes:
            return outcomes.too_much(f"The function had more than {child.max_processes} processes and threads.")
        began = time.monotonic()
        if self._state is State.IDLE or began >= self._memory_check_at:
            if self._memory.is_exceeded():
                return self._out_of_memory()
            if child.shares_uid:  # processes are counted more often than their memory
                self._memory_check_at = time.monotonic() + _CHECK_SHARE * (time.monotonic() - began)
        message = self._scratch.excess()
        return None if message is None else outcomes.too_much(message)

    def _count_threads(self) -> int:
        """How many threads the function's processes have."""
        fd = self._config.threads_fd
        if fd is None:
            return memory.threads_below(self._template.pid)
        return int(os.pread(fd, 32, 0)) - _OWN_THREADS

    def _rest(self, now: float) -> None:
        """Freeze the idle child, or look again some time later."""
        if self._freezer.frozen:
            self._look_s *= 2
        elif self._child is not None and self._child.pid is not None:
            self._freezer.freeze(self._child.pid)
            self._look_s = _IDLE_S
        else:
            self._wake = None
            return
        self._wake = now + self._look_s if self._look_s <= _LAST_LOOK_S else None

    def _interval_s(self, now: float) -> float:
        """Seconds until the next check. The checks of many long calls would use all processors."""
        if self._state is not State.BUSY or self._call is None or not self._memory.is_bounded:
            return _CHECK_INTERVAL_S
        return min(max(_FIRST_CHECK_S, (now - self._call.started) / 10), _LONGEST_INTERVAL_S)

    def _thaw(self) -> None:
        if self._freezer.frozen:
            self._freezer.thaw()

    def _out_of_memory(self) -> Outcome:
        assert self.target is not None
        loading = State.STARTING in (self._state, self._gone_in)
        return outcomes.out_of_memory(self.target.memory_size, loading)
