"""Counts what a service's workers have on the machine. When they are gone, all counts must be as before."""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from pathlib import Path

from tests.integration.service import Service
from tests.run import processes

_SLOTS = 4096  # pairs of user ids that a service may use, as in slots.py
_END_TIMEOUT_S = 20.0
_UNCHANGED_S = 1.0
# An ordinary user's workers all have the service's user id, by which the kernel counts keys.
NOT_COUNTED = () if os.geteuid() == 0 else ("keys of workers", "pairs of user ids")


class Traces:
    """The traces of one service, seen from outside."""

    def __init__(self, service: Service):
        self._service = service
        self._install = (service.var_dir / "install-id").read_text().split()[0]
        first = int(service.environ.get("SANDBOX_UID_BASE", 210_000))
        self._uids = range(first, first + 2 * _SLOTS)
        self._folders: list[Path] = []

    def groups(self) -> set[str]:
        """Names of the control groups of workers and zygotes; empty where the service can't make groups."""
        if not all(folder.is_dir() for folder in self._folders) or not self._folders:
            name = f"qinling-falcon-{self._install}"
            self._folders = [Path(path) for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(name)]
        return {entry.name for folder in self._folders for entry in folder.iterdir() if entry.is_dir()}

    def members(self) -> dict[int, int]:
        """The processes of workers and zygotes, each with its parent."""
        parents = processes.table()
        return {pid: parents[pid] for pid in processes.sandboxed(self._install) if pid in parents}

    def workers(self) -> list[list[int]]:
        """The processes of each worker, parents first.

        A forked worker begins with its supervisor, and one that was executed with bubblewrap's two processes.
        """
        members = self.members()
        zygotes = _zygotes(members)
        forked = [pid for chain in zygotes for pid, parent in members.items() if parent == chain[-1]]
        executed = [pid for pid in _roots(members) if pid not in {chain[0] for chain in zygotes}]
        return [_tree(members, first) for first in (*forked, *executed)]

    def worker_with(self, name: str) -> list[int]:
        """The processes of the worker in which a process has given itself this name; empty if there is none."""
        return next((worker for worker in self.workers() if name in map(_name_of, worker)), [])

    def zygote(self) -> list[int]:
        """Bubblewrap's outer and inner process, and the zygote; of all zygotes, if there are several."""
        return [pid for chain in _zygotes(self.members()) for pid in chain]

    def held(self) -> dict[str, int]:
        """Counts of things that must not grow with the number of workers that have come and gone."""
        manager = self._service.processes["pool"].pid
        counts = {
            "descriptors of the manager": len(os.listdir(f"/proc/{manager}/fd")),
            "mounts of the host": Path("/proc/self/mounts").read_text().count(str(self._service.var_dir)),
            "groups": len(self.groups()),
            "processes": len(self.members()),
            "pairs of user ids": self._uid_claims(),
            "keys of workers": self._keys(),
            "folders of workers with files": sum(
                len(list(folder.rglob("*"))) > 1 for folder in (self._service.var_dir / "workers").iterdir()
            ),
        }
        for zygote in self.zygote()[2:3]:
            counts["descriptors of the zygote"] = len(os.listdir(f"/proc/{zygote}/fd"))
            counts["mounts of the zygote"] = len(Path(f"/proc/{zygote}/mounts").read_text().splitlines())
        return {name: count for name, count in counts.items() if name not in NOT_COUNTED}

    def held_for_long(self) -> dict[str, int]:
        """What is held, as soon as it stays the same: workers that are ready may still start and end processes."""
        deadline = time.monotonic() + _END_TIMEOUT_S
        found, since = self.held(), time.monotonic()
        while time.monotonic() < min(since + _UNCHANGED_S, deadline):
            time.sleep(0.1)
            if (now := self.held()) != found:
                found, since = now, time.monotonic()
        return found

    def left(self, before: dict[str, int]) -> dict[str, tuple[int, int]]:
        """The counts that stay larger than `before`: what they were and are.

        Some things end later: the kernel keeps a key for a moment after its user's last process has ended.
        """
        deadline = time.monotonic() + _END_TIMEOUT_S
        while True:
            found = {name: (before[name], count) for name, count in self.held().items() if count > before[name]}
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def private_memory(self) -> dict[str, int]:
        """Private KiB of the manager and of the zygote."""
        found = {}
        for name, pid in (("manager", self._service.processes["pool"].pid), ("zygote", self.zygote()[-1])):
            fields = Counter[str]()
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
                key, _, value = line.partition(":")
                fields[key] = int(value.split()[0])
            found[name] = fields["Private_Dirty"] + fields["Private_Clean"]
        return found

    def _uid_claims(self) -> int:
        """Pairs of user ids that the manager holds."""
        manager = self._service.processes["pool"].pid
        held = set()
        for fd in os.listdir(f"/proc/{manager}/fd"):
            with contextlib.suppress(FileNotFoundError):
                held.add(os.readlink(f"/proc/{manager}/fd/{fd}"))
        claims = [
            line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "@qinling-falcon-uid-" in line
        ]
        return sum(f"socket:[{claim[6]}]" in held for claim in claims)

    def _keys(self) -> int:
        """Keys and keyrings of the workers' users, also of those whose processes have all ended.

        /proc/keys does not show these keys, not even to root: it lists only keys that the reader may view.
        """
        total = 0
        for line in Path("/proc/key-users").read_text().splitlines():
            uid, _, counts = line.partition(":")
            if int(uid) in self._uids:
                total += int(counts.split()[1].partition("/")[0])
        return total


def _roots(members: dict[int, int]) -> list[int]:
    """The processes whose parents are others' processes."""
    return [pid for pid, parent in members.items() if parent not in members]


def _zygotes(members: dict[int, int]) -> list[list[int]]:
    """For each zygote: bubblewrap's outer and inner process, and the zygote."""
    chains = []
    for root in _roots(members):
        if any("/zygote-" in word for word in processes.command(root)):
            chain = [root]
            while len(chain) < 3 and (below := [pid for pid, parent in members.items() if parent == chain[-1]]):
                chain.append(below[0])
            if len(chain) == 3:
                chains.append(chain)
    return chains


def _tree(members: dict[int, int], first: int) -> list[int]:
    """A process and all below it, parents first."""
    found = [first]
    for pid in found:
        found += [child for child, parent in members.items() if parent == pid]
    return found


def _name_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""
