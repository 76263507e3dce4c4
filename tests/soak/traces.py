"""Counts what a service's workers have on the machine. When they are gone, all counts must be as before."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from pathlib import Path

from tests.integration.service import Service
from tests.run import processes

_FIRST_UID = 210_000  # the default of SANDBOX_UID_BASE
_GROUP = re.compile(r"/qinling-falcon-(\w+)/([^/\n]+)")


class Traces:
    """The traces of one service, seen from outside."""

    def __init__(self, service: Service):
        self._service = service
        self._install = (service.var_dir / "install-id").read_text().split()[0]

    def groups(self) -> set[str]:
        """Names of the control groups of workers and zygotes."""
        folders = [path for path, _, _ in os.walk("/sys/fs/cgroup") if path.endswith(f"qinling-falcon-{self._install}")]
        return {entry.name for folder in folders for entry in Path(folder).iterdir() if entry.is_dir()}

    def members(self) -> dict[int, str]:
        """The processes of workers and zygotes, each with the name of its group."""
        found = {}
        for pid in processes.sandboxed(self._install):
            with contextlib.suppress(OSError):
                text = Path(f"/proc/{pid}/cgroup").read_text()
                names = [name for install, name in _GROUP.findall(text) if install == self._install]
                found[pid] = names[0] if names else ""
        return found

    def workers(self) -> set[str]:
        """Ids of the workers that have a process."""
        return {name for name in self.members().values() if not name.startswith("zygote-")}

    def of_worker(self, worker_id: str) -> list[int]:
        """The processes of a worker; its supervisor comes first."""
        return _from_the_top([pid for pid, name in self.members().items() if name == worker_id])

    def zygote(self) -> list[int]:
        """Bubblewrap's outer and inner process, and the zygote."""
        return _from_the_top([pid for pid, name in self.members().items() if name.startswith("zygote-")])

    def uid_claims(self) -> int:
        """Pairs of user ids that the manager holds."""
        manager = self._service.processes["pool"].pid
        held = {os.readlink(f"/proc/{manager}/fd/{fd}") for fd in os.listdir(f"/proc/{manager}/fd")}
        claims = [
            line.split() for line in Path("/proc/net/unix").read_text().splitlines() if "@qinling-falcon-uid-" in line
        ]
        return sum(f"socket:[{claim[6]}]" in held for claim in claims)

    def held(self) -> dict[str, int]:
        """Counts of things that must not grow with the number of workers that have come and gone."""
        manager = self._service.processes["pool"].pid
        zygote = self.zygote()[-1]
        keys = [line.split() for line in Path("/proc/keys").read_text().splitlines()]
        return {
            "descriptors of the manager": len(os.listdir(f"/proc/{manager}/fd")),
            "descriptors of the zygote": len(os.listdir(f"/proc/{zygote}/fd")),
            "mounts of the zygote": len(Path(f"/proc/{zygote}/mounts").read_text().splitlines()),
            "mounts of the host": Path("/proc/self/mounts").read_text().count(str(self._service.var_dir)),
            "groups": len(self.groups()),
            "processes": len(self.members()),
            "pairs of user ids": self.uid_claims(),
            "keys of workers": sum(int(key[5]) >= _FIRST_UID for key in keys),
            "folders of workers with files": sum(
                len(list(folder.rglob("*"))) > 1 for folder in (self._service.var_dir / "workers").iterdir()
            ),
        }

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


def _from_the_top(pids: list[int]) -> list[int]:
    """Sort parents before their children. Pids do not show the order, because they start again from low numbers."""
    return sorted(pids, key=lambda pid: len(processes.ancestors(pid)))
