"""Drops a forked process's privileges and sets its limits, before it runs user code."""

from __future__ import annotations

import contextlib
import os
import resource
import signal

from . import landlock, linux
from .config import ChildConfig

_LOWEST_PRIORITY = 19


def make_rules(config: ChildConfig) -> int | None:
    """Make the Landlock ruleset for a child. Returns its descriptor; None where the kernel has no Landlock.

    The child may write to the host's `/tmp` and `/dev/shm` even without a sandbox, because many programs use these
    names.
    """
    writable = [*config.scratch_dirs, "/tmp", "/dev/shm", *config.writable]
    return landlock.make_rules([*config.readable, config.code_dir], writable)


def become_child(config: ChildConfig, rules: int | None, counted_alone: bool) -> None:
    """Take on the child's uid, limits, environment and Landlock ruleset. The process can't undo this.

    Args:
        config: the child's configuration.
        rules: the descriptor that `make_rules` has returned.
        counted_alone: whether RLIMIT_NPROC counts only the template and the processes below it.
    """
    parent = os.getppid()
    os.setsid()
    linux.set_dumpable(True)  # otherwise its own /proc files belong to root, and it can't write them
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
        file.write(b"1000")  # when memory runs out, the kernel kills this process first
    _limit(config, counted_alone)
    drop_privileges(config)
    linux.set_dumpable(True)  # the change of uid has reset it, but the function may read its own /proc files
    linux.set_parent_death_signal(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    os.environ.clear()
    scratch = config.scratch_dirs[0] if config.scratch_dirs else "/tmp"
    os.environ.update(HOME=scratch, TMPDIR=scratch, PATH="/usr/local/bin:/usr/bin:/bin", LANG="C.UTF-8")
    os.environ.update(USER="function", LOGNAME="function")  # `getpass` looks here before it asks for the uid's name
    os.environ.update(PYTHONUNBUFFERED="1", GFORTRAN_UNBUFFERED_PRECONNECTED="y")
    os.umask(0o022)
    os.chdir(config.code_dir)
    if rules is not None:
        landlock.enter(rules)
        os.close(rules)


def prepare_for_forks() -> None:
    """Prepare a child that forks a process for each call."""
    linux.set_child_subreaper()  # processes that a call leaves become children of this process
    # Otherwise OpenBLAS, which `import numpy` loads, starts threads, and a fork does not copy threads.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"


def drop_privileges(config: ChildConfig) -> None:
    """Take on the child's uid and gid, if it has its own. Drop all capabilities, and prevent gaining any."""
    if config.child_uid is not None:
        gid = config.child_uid if config.child_gid is None else config.child_gid
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(config.child_uid, config.child_uid, config.child_uid)
    linux.set_no_new_privs()
    linux.keep_capabilities(())


def _limit(config: ChildConfig, counted_alone: bool) -> None:
    processes = config.max_processes
    if counted_alone:
        processes += 1  # the template
    elif config.child_uid is None:
        processes += _threads_of(os.getuid())  # this uid's processes elsewhere count too
    if counted_alone or not config.shares_uid:
        _lower(resource.RLIMIT_NPROC, processes)
    if config.shares_uid:
        os.nice(_LOWEST_PRIORITY)
    _lower(resource.RLIMIT_NOFILE, config.max_open_files)
    _lower(resource.RLIMIT_FSIZE, config.max_file_size)


def forbid_core_dumps() -> None:
    """Keep crashes from starting the host's handler of core dumps, which runs outside of the sandbox.

    With the limit 0 the kernel starts it all the same; with 1 it does not. The seccomp filter keeps functions from
    changing the limit.
    """
    _lower(resource.RLIMIT_CORE, 1)


def _lower(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))


def _threads_of(uid: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue
    return count
