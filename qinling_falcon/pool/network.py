"""Tells whether this process is in the same network namespace as the pool manager, so that it reaches local workers.

Local workers listen on abstract Unix sockets, so only processes on the machine and in the network namespace of the
active pool manager reach them. The manager's name in Redis contains the id of its network (see `Claim`).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from qinling_falcon.errors import Unavailable


class WorkersUnreachable(Unavailable):
    """The workers are local to another machine or network. The function has not run."""


@functools.cache
def network_id() -> str:
    """The id of the network of this process, without `:`.

    Machines and containers may share a host name. Therefore the id consists of the id of the machine's boot and the
    inode of the network namespace.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        network = Path("/proc/self/ns/net").stat().st_ino
    except OSError:
        return os.uname().nodename.replace(":", "")
    return f"{boot}-{network}"


def why_unreachable(manager: str) -> str | None:
    """Why this process can't reach the local workers of the pool manager named `manager`; None: it can.

    A pool manager whose workers are not local, or of an older release, has a name without an id. Its workers count as
    reachable.
    """
    host, _, rest = manager.partition(":")
    its_network = rest.partition(":")[2].partition(":")[2]
    if its_network in ("", network_id()):
        return None
    return (
        f"The active pool manager runs on host {host}, and only processes in the same network reach its workers. web"
        f" must run there, too; this web process runs on host {os.uname().nodename}"
        f"{', in another network' if host == os.uname().nodename else ''}."
    )
