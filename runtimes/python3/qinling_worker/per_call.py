"""Isolation by call, in the child: the process that has loaded the function forks a process for each call.

The loaded process runs no call itself. When the supervisor asks for it, it forks the process of the next call, waits
for its end, and reports whether other processes are left. It is a subreaper: all processes that a call starts are below
it, and become its children when their parents end. So nothing is left when it has no child.

The calls have the uid of the loaded process. It is not dumpable, so that they can neither read nor write its memory.
They can't signal it where the kernel has Landlock's scopes; elsewhere it blocks the signals that can be blocked. Like
`child.py`, this module binds all that it needs before user code is loaded.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps these functions in Python
from _socket import CMSG_SPACE, MSG_CMSG_CLOEXEC, socket
from collections.abc import Callable
from gc import collect, freeze
from os import (
    O_RDONLY,
    O_RDWR,
    WNOHANG,
    _exit,
    close,
    dup2,
    fork,
    getpid,
    getppid,
    kill,
    listdir,
    pidfd_open,
    read,
    setsid,
    waitpid,
    write,
)  # fmt: skip
from os import open as open_file
from select import POLLIN, poll
from struct import Struct
from time import monotonic, sleep

from . import frames, linux
from .failures import NotLoaded
from .landlock import enter, make_scope

_answer_header = frames.ANSWER
_FORKED, _ENDED = frames.FORKED, frames.ENDED
_descriptors = Struct("ii")
_SIGCHLD, _SIGKILL, _SIG_DFL = _signal.SIGCHLD, _signal.SIGKILL, _signal.SIG_DFL
_mask, _block, _set_mask = _signal.pthread_sigmask, _signal.SIG_BLOCK, _signal.SIG_SETMASK
_handle = _signal.signal
_ALL_SIGNALS = _signal.valid_signals()
_END_TIMEOUT_S = 0.25  # threads and processes of the import that are ending
_ANSWERED_TIMEOUT_S = 0.1  # the process of a call that has been answered
_LEFT_TIMEOUT_S = 1.0  # processes of a call that are ending
_ASLEEP_TIMEOUT_S = 0.1  # processes of a call that seem not to be ending
_FORK_TIMEOUT_S = 0.5
_set_dumpable, _set_parent_death_signal = linux.set_dumpable, linux.set_parent_death_signal
_exit_code = linux.exit_code


def check_alone() -> None:
    """Check that the import has left one thread and no process, for a fork copies neither.

    Raises:
        NotLoaded: the import has left other threads or processes.
    """
    said = "With isolation per_call each call runs in a fork of the process that has imported the module"
    if not _wait_for(lambda: len(listdir("/proc/self/task")) == 1, _END_TIMEOUT_S):
        what = "Its module has started threads that go on after its import"
        raise NotLoaded(f"{what}. {said}. A fork has only one thread.")
    if not _wait_for(_has_no_child, _END_TIMEOUT_S):
        what = "Its module has started processes that go on after its import"
        raise NotLoaded(f"{what}. {said}. A fork does not copy other processes.")


def fork_for_calls(channel_fd: int, log_fd: int) -> tuple[int, int]:
    """Fork a process for each call. Returns only in these processes, never in the loaded process.

    Args:
        channel_fd: the loaded process's socket to the supervisor. A fork is requested by one byte with two descriptors.
        log_fd: the loaded process's copy of its log pipe.

    Returns:
        The call's own channel, and a hidden copy of its own log pipe.
    """
    _set_dumpable(False)
    scope = make_scope()
    unblocked = _mask(_block, _ALL_SIGNALS)
    on_child = _handle(_SIGCHLD, _SIG_DFL)  # while SIGCHLD is ignored, the kernel drops exit codes
    loaded = getpid()
    control = socket(fileno=channel_fd)
    request = poll()
    request.register(channel_fd, POLLIN)
    collect()
    freeze()  # calls don't touch these objects, so their pages stay shared
    while True:
        data, ancillary, _, _ = control.recvmsg(1, CMSG_SPACE(_descriptors.size), MSG_CMSG_CLOEXEC)
        if not data:
            _exit(0)  # the supervisor has closed it
        channel, log = _descriptors.unpack(ancillary[0][2])
        pid = _fork_patiently()
        if pid == 0:
            break
        close(channel)
        close(log)
        _send(channel_fd, _FORKED, b"%d" % pid)
        _await_end(pid, channel_fd)
        code = _exit_code(waitpid(pid, 0)[1])
        # If the call has no answer, all is ended anyway, and the supervisor waits for the exit code.
        left = not _wait_for(_has_no_child, _LEFT_TIMEOUT_S, lambda: bool(request.poll(0)) and _is_ending())
        _send(channel_fd, _ENDED, b"%d %d" % (code, left))
        while left:
            sleep(1)  # until the supervisor ends this process, too
    control.close()
    close(log_fd)
    null = open_file("/dev/null", O_RDWR)  # anew: processes that share an open file share its flags and owner
    dup2(null, 0)
    close(null)
    dup2(log, 1)
    dup2(log, 2)
    setsid()
    _set_parent_death_signal(_SIGKILL)
    if getppid() != loaded:
        _exit(1)
    _set_dumpable(True)  # the function may look at itself
    if scope is not None:
        enter(scope)
        close(scope)
    if on_child is not None and on_child != _SIG_DFL:
        _handle(_SIGCHLD, on_child)
    _mask(_set_mask, unblocked)
    return channel, log


def _fork_patiently() -> int:
    """`os.fork`, repeated for a short time while other processes of the uid use up its limit of processes."""
    deadline = monotonic() + _FORK_TIMEOUT_S
    while True:
        try:
            return fork()
        except OSError:
            if monotonic() > deadline:
                _exit(1)
            sleep(0.01)


def _await_end(pid: int, channel_fd: int) -> None:
    """Wait for the end of a call's process. If it goes on after its answer, kill it.

    The supervisor requests the next process when it has the answer. Before that, a call may take any time.
    """
    try:
        pidfd = pidfd_open(pid)
    except OSError:  # before Linux 5.3; the supervisor then ends this process, too
        return
    events = poll()
    events.register(pidfd, POLLIN)
    events.register(channel_fd, POLLIN)
    if all(fd != pidfd for fd, _ in events.poll()):
        events.unregister(channel_fd)
        if not events.poll(_ANSWERED_TIMEOUT_S * 1000):
            kill(pid, _SIGKILL)
    close(pidfd)


def _is_ending() -> bool:
    """Whether a child of this process seems to be ending: it waits for a processor or a disk.

    `multiprocessing` has helper processes, which end by themselves after the process that has started them. On a busy
    host that takes them long. A process that sleeps or is stopped does not end by itself.
    """
    try:
        children = _read_file("/proc/thread-self/children").split()
        stats = [_read_file(f"/proc/{int(pid)}/stat") for pid in children]
    except OSError:
        return False
    return any(stat[stat.rfind(b")") + 2 :][:1] in (b"R", b"D") for stat in stats)


def _read_file(path: str) -> bytes:
    fd = open_file(path, O_RDONLY)
    data = read(fd, 65536)
    close(fd)
    return data


def _has_no_child() -> bool:
    """Reap the children that have ended. Returns whether there are no others."""
    try:
        while waitpid(-1, WNOHANG)[0] != 0:
            continue
    except ChildProcessError:
        return True
    return False


def _wait_for(condition: Callable[[], bool], timeout_s: float, is_likely: Callable[[], bool] = lambda: True) -> bool:
    """Wait until the condition is true.

    Args:
        condition: what to wait for.
        timeout_s: the longest wait.
        is_likely: if it is false for `_ASLEEP_TIMEOUT_S`, the wait ends, too.

    Returns:
        Whether the condition became true.
    """
    now = monotonic()
    deadline, give_up_at = now + timeout_s, now + _ASLEEP_TIMEOUT_S
    while not condition():
        now = monotonic()
        if is_likely():
            give_up_at = now + _ASLEEP_TIMEOUT_S
        if now > min(deadline, give_up_at):
            return False
        sleep(0.001)
    return True


def _send(channel_fd: int, kind: int, payload: bytes) -> None:
    write(channel_fd, _answer_header.pack(len(payload), kind, 0.0) + payload)
