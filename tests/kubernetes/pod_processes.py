"""The processes of workers in pods, as the machine that the node runs on sees them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def processes_of(pod_uid: str) -> list[int]:
    """The processes of a pod's worker, in the order of their starts, without those of the sandbox around it."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and pod_uid in (folder / "cgroup").read_text():
                command = (folder / "cmdline").read_bytes()
                inner = (folder / "status").read_text().partition("NSpid:")[2].splitlines()[0].split()
                if b"worker.py" in command:
                    found.append((int(inner[-1]), int(folder.name)))
    return [pid for _, pid in sorted(found)]
