"""Landlock: limits the files and processes that a function can reach, also where namespaces are missing.

The template makes a ruleset once, which takes 0.2 ms. Each child enters it, which takes 0.01 ms, and all processes that
the child starts inherit it. Processes inside can't signal processes outside, can't read their memory or environment,
and can't connect to their abstract sockets. The supervisor, the template and its cleaners stay outside and can do all
of that.

The kernel's version of Landlock decides what is possible. With version 1 (before Linux 5.19), files could not be moved
from one folder to another, so Landlock is not used at all. Limits on signals and abstract sockets (scopes) need version
6 (Linux 6.12).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
from collections.abc import Collection, Iterable, Mapping

from .linux import system_call

FILES_VERSION, SCOPES_VERSION = 2, 6

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on all architectures
_FLAG_VERSION, _RULE_PATH_BENEATH = 1, 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_CHAR, _MAKE_DIR, _MAKE_REG = 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8
_MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM, _REFER, _TRUNCATE = 1 << 9, 1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14
_IOCTL_DEV = 1 << 15
_RIGHTS_SINCE = {1: (1 << 13) - 1, 2: _REFER, 3: _TRUNCATE, 5: _IOCTL_DEV}
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_SCOPES = 1 << 0 | 1 << 1  # abstract sockets, signals
_LOG_VERSION, _LOG_NOTHING = 7, 1 << 0 | 1 << 2  # a function could fill the host's audit log

READ = _EXECUTE | _READ_FILE | _READ_DIR
WRITE = (
    READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_FIFO
    | _MAKE_SYM | _REFER
)  # fmt: skip
_USE = _READ_FILE | _WRITE_FILE | _READ_DIR | _TRUNCATE | _IOCTL_DEV  # use existing files, make none

# Every Linux program may expect to use these. Nothing in /proc can be written: a function could lower its
# `oom_score_adj` there, so that the kernel would rather kill other processes when memory runs out.
_SEEN = ("/proc",)
_USED = ("/dev",)
_USED_OF_HOST = (
    "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts",
)  # fmt: skip


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("rights", ctypes.c_uint64), ("folder", ctypes.c_int32))


def _version() -> int:
    try:
        return system_call(_CREATE_RULESET, None, 0, _FLAG_VERSION)
    except OSError:
        return 0


VERSION = _version()  # of the kernel's Landlock; 0 without it


def make_rules(readable: Collection[str], writable: Iterable[str]) -> int | None:
    """Make the ruleset for a child, which enters it later.

    Args:
        readable: files and folders that may be read and executed, with all files below these folders. If `/` is among
            them, the process is in a sandbox, and may use all of its devices.
        writable: folders whose files may be read, written, made and removed. Missing paths are ignored.

    Returns:
        The ruleset's descriptor; None where the kernel has no Landlock, or one that is too old.
    """
    if VERSION < FILES_VERSION:
        return None
    handled = sum(rights for since, rights in _RIGHTS_SINCE.items() if since <= VERSION)
    ruleset = _create(handled)
    rights_of: dict[str, int] = {}
    boxed = "/" in readable
    # There are few rules, because each start of a worker makes them.
    read, used = (("/",), _USED) if boxed else ((*readable, *_SEEN), _USED_OF_HOST)
    for paths, rights in ((read, READ), (used, _USE), (writable, WRITE)):
        for path in paths:
            rights_of[path] = rights_of.get(path, 0) | rights & handled
    _add(ruleset, rights_of)
    return ruleset


def make_scope() -> int | None:
    """Make a ruleset for signals and abstract sockets only. None where the kernel's Landlock has no scopes."""
    return _create(0) if VERSION >= SCOPES_VERSION else None


def enter(ruleset: int) -> None:
    """Confine this process and all that it forks, for good. `no_new_privs` must be set.

    Raises:
        OSError: the kernel refuses it, for example because the process is in 16 rulesets already.
    """
    system_call(_RESTRICT_SELF, ruleset, _LOG_NOTHING if VERSION >= _LOG_VERSION else 0)


def _create(handled: int) -> int:
    # Older kernels accept fields that they don't know, if these are 0.
    wanted = _Ruleset(handled, 0, _SCOPES if VERSION >= SCOPES_VERSION else 0)
    return system_call(_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0)


def _add(ruleset: int, rights_of: Mapping[str, int]) -> None:
    for path, rights in rights_of.items():
        with contextlib.suppress(FileNotFoundError, PermissionError, NotADirectoryError):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                if not stat.S_ISDIR(os.fstat(folder).st_mode):
                    rights &= _OF_FILES
                system_call(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(_PathBeneath(rights, folder)), 0)
            finally:
                os.close(folder)
