"""Finding processes of a service by what they carry, not by whose children they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

_PROC = Path("/proc")


def table() -> dict[int, int]:
    """The parent of every live process."""
    found = {}
    for folder in _PROC.iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX" or int(fields[17]) > 1:  # the main thread may have ended, and others go on
                found[int(folder.name)] = int(fields[1])
    return found


def command(pid: int) -> list[str]:
    """The command line of a process; empty when it has ended."""
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [word.decode(errors="replace") for word in words if word]


def with_environment(name: str, value: str) -> set[int]:
    """Processes that were started with `name=value` in their environment."""
    entry = f"{name}={value}".encode()
    found = set()
    for pid in table():
        try:
            if entry in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.add(pid)
        except OSError:
            continue
    return found


def sandboxed(install_id: str) -> set[int]:
    """Processes of an install's workers: by control group and by the mark in command lines; with all below them.

    Their environment is empty.
    """
    parents = table()
    found = set()
    for pid in parents:
        try:
            groups = (_PROC / str(pid) / "cgroup").read_text()
        except OSError:
            continue
        if f"qinling-falcon-{install_id}" in groups or any(f"qf_worker={install_id}/" in word for word in command(pid)):
            found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def sandboxed_with(install_id: str, last_word: str) -> int:
    """A process of an install's workers whose command line ends with this word; 0 if there is none.

    It looks at the control groups only if there is such a command line: calls must not end while a busy machine looks
    for them.
    """
    named = _with_last_word(last_word)
    return next(iter(named & sandboxed(install_id)), 0) if named else 0


def with_last_word(last_word: str) -> int:
    """A process whose command line ends with this word; 0 if there is none."""
    return next(iter(_with_last_word(last_word)), 0)


def _with_last_word(last_word: str) -> set[int]:
    pids = (int(folder.name) for folder in _PROC.iterdir() if folder.name.isdigit())
    return {pid for pid in pids if command(pid)[-1:] == [last_word]}


def ids_in_namespaces(pid: int) -> list[int]:
    """The ids of a process in all its PID namespaces, from ours inwards; empty when it has ended."""
    try:
        lines = (_PROC / str(pid) / "status").read_text(errors="replace").splitlines()
    except OSError:
        return []
    return next((list(map(int, line.split()[1:])) for line in lines if line.startswith("NSpid:")), [])


def ancestors(pid: int, parents: Mapping[int, int]) -> list[int]:
    """Parent, its parent and so on up to process 1, by a `table`."""
    line = []
    while pid := parents.get(pid, 0):
        line.append(pid)
    return line


def serving(server_port: int, client_port: int) -> int:
    """The process that holds the server's end of a connection over loopback."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
        if (local, remote) == (server_port, client_port):
            inodes.add(f"socket:[{fields[9]}]")
    for pid in table():
        try:
            if any(str(link.readlink()) in inodes for link in (_PROC / str(pid) / "fd").iterdir()):
                return pid
        except OSError:
            continue
    raise LookupError(f"nobody serves {client_port} -> {server_port}")
