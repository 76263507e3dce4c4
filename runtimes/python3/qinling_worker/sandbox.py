"""Completes the sandbox of a worker that a zygote has forked: control groups, mounts, network, user ids.

The zygote's own sandbox has the read-only system, the interpreter and this program. This module adds the parts that
each worker has for itself.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from . import clone, linux, memory

WORKERS = "/workers"  # the folders of all workers; each worker mounts its own as /code, and then unmounts this
_CODE = "/code"
_KERNEL_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_KEYS = ("/proc/keys", "/proc/key-users")
_PLAIN = linux.MS_NOSUID | linux.MS_NODEV
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1


class Sandbox(NamedTuple):
    """The description of one worker's sandbox. Sizes are in bytes."""

    worker_id: str
    folder: str  # the name of its folder in WORKERS
    uid: int | None  # the supervisor's; None: the service's, in a user namespace of the worker's own
    child_uid: int | None
    tmp_size: int
    shm_size: int
    own_network: bool

    @property
    def namespaces(self) -> int:
        """The namespaces that the worker is forked into."""
        network = clone.CLONE_NEWNET if self.own_network else 0
        return clone.CLONE_NEWPID | clone.CLONE_NEWNS | clone.CLONE_NEWIPC | clone.CLONE_NEWUTS | network

    def enter(self, entrances: Iterable[int]) -> None:
        """Complete the sandbox of this process, which must be the first one in its namespaces.

        Args:
            entrances: descriptors to which this process writes `0` to enter its control groups.

        Raises:
            OSError: a step has failed. The process must end.
        """
        for entrance in entrances:
            os.write(entrance, b"0")
        linux.unshare(clone.CLONE_NEWCGROUP)  # the new namespace's root is the group that this process is in now
        if self.own_network:
            _raise_loopback()
        self._mount()
        if self.uid is None:
            _enter_user_namespace()
        else:
            _become(self.uid)

    def _mount(self) -> None:
        linux.mount("tmpfs", "/tmp", "tmpfs", _PLAIN, f"mode=1777,size={self.tmp_size}")
        linux.mount("tmpfs", "/dev/shm", "tmpfs", _PLAIN, f"mode=1777,size={self.shm_size}")
        linux.mount("proc", "/proc", "proc", _PLAIN | linux.MS_NOEXEC)
        for path in _KERNEL_SETTINGS:
            if os.access(path, os.W_OK):
                _show_read_only(path, path, _PLAIN | linux.MS_NOEXEC)
        if self.uid is None:
            _hide_keys()
        code = f"{WORKERS}/{self.folder}/code"
        # The supervisor writes to it by a descriptor, until a package is loaded. A function must not, even if it has
        # the supervisor's user id.
        _show_read_only(code, _CODE, _PLAIN | os.statvfs(code).f_flag & linux.MS_NOEXEC)
        linux.detach(WORKERS)
        if self.child_uid is not None:
            _name_user(self.child_uid)


def protect_devices() -> None:
    """Make the zygote's mounts of the host's devices read-only, so that no function sets the times of their files.

    Devices on a read-only mount can be opened and written.
    """
    folder = os.stat("/dev").st_dev
    for path in _DEVICES:
        if os.stat(path).st_dev != folder:  # it is a mount
            flags = linux.MS_NOSUID | os.statvfs(path).f_flag & linux.MS_NOEXEC
            linux.mount("", path, "", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | flags)


def count_alone() -> bool:
    """Enter a user namespace, so that RLIMIT_NPROC counts only this process and those below it.

    Otherwise it would count the processes of all workers, where all have the service's user id.

    Returns:
        Whether that is so now. False: it is not needed, or not possible on this host.
    """
    with open("/proc/self/status", "rb", buffering=0) as file:
        capabilities = memory.field_of(file.read(), b"CapEff")
    if os.geteuid() == 0 or int(capabilities, 16) != 0:
        return False
    linux.set_dumpable(True)  # otherwise this process may not write its own /proc files
    trial = os.fork()  # a security module may let a process enter, and then deny it the uid map, so a fork tries it
    if trial == 0:
        try:
            _enter_user_namespace()
            os._exit(0)
        finally:
            os._exit(1)
    possible = os.waitpid(trial, 0)[1] == 0
    if possible:
        _enter_user_namespace()
    linux.set_dumpable(False)
    return possible


def _hide_keys() -> None:
    """Hide the names of the kernel keys of the service's user."""
    for path in _KEYS:
        if os.path.exists(path):
            linux.mount("/dev/null", path, "", linux.MS_BIND)


def _show_read_only(source: str, target: str, flags: int) -> None:
    linux.mount(source, target, "", linux.MS_BIND)
    linux.mount("", target, "", linux.MS_BIND | linux.MS_REMOUNT | linux.MS_RDONLY | flags)


def _name_user(uid: int) -> None:
    """Put the child's user into /etc/passwd and /etc/group. The new files are unlinked files in /tmp."""
    for name, lines in (
        ("passwd", f"root:x:0:0::/nonexistent:/usr/sbin/nologin\nfunction:x:{uid}:{uid}::/tmp:/bin/sh\n"),
        ("group", f"root:x:0:\nfunction:x:{uid}:\n"),
    ):
        path = f"/tmp/{name}"
        _write(path, lines, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        _show_read_only(path, f"/etc/{name}", _PLAIN)
        os.unlink(path)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def _enter_user_namespace() -> None:
    """Enter a user namespace with the same user id. RLIMIT_NPROC then counts only the processes of this worker."""
    uid, gid = os.getuid(), os.getgid()
    linux.unshare(clone.CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        _write(f"/proc/self/{name}", text, os.O_WRONLY)
    linux.keep_capabilities(())


def _become(uid: int) -> None:
    """Become the supervisor's user, with the capabilities that the supervisor and its template need."""
    linux.keep_capabilities(linux.SUPERVISOR_CAPABILITIES)
    linux.keep_permitted_capabilities()
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    linux.keep_capabilities(linux.SUPERVISOR_CAPABILITIES)


def _write(path: str, text: str, flags: int) -> None:
    # Not `open`, which costs more than all mounts of a worker, because it writes to memory shared with the zygote.
    fd = os.open(path, flags, 0o444)
    os.write(fd, text.encode())
    os.close(fd)
