"""The place of a process: the machine and network in which 127.0.0.1 means the same servers.

Local workers listen on 127.0.0.1, so only processes in the place of the active pool
manager reach them. The manager's name in Redis contains its place (see `Claim`).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from qinling_falcon.errors import Unavailable


class WorkersElsewhere(Unavailable):
    """The workers listen on 127.0.0.1 of another machine or network; the function has not run."""


@functools.cache
def place() -> str:
    """The place of this process, without `:`.

    Machines and containers may share a host name, so the id of the machine's boot and the inode of the network
    namespace tell them apart.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        network = Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return os.uname().nodename.replace(":", "")
    return f"{boot}-{network}"


def elsewhere(manager: str) -> str | None:
    """Why this process can't reach the local workers of the pool manager named `manager`; None if it can.

    A name without a place, which a pool manager of an older release has, counts as reachable.
    """
    host, _, rest = manager.partition(":")
    its_place = rest.partition(":")[2].partition(":")[2]
    if its_place in ("", place()):
        return None
    return (
        f"The active pool manager runs on host {host}, and only processes in the same network reach its workers. web"
        f" must run there, too; this web process runs on host {os.uname().nodename}"
        f"{', in another network' if host == os.uname().nodename else ''}."
    )
