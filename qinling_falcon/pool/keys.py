"""The keys that Python reads itself; all others are the scripts' own (docs/redis-keys.md)."""

from __future__ import annotations

from qinling_falcon.pool.lua import ANCHOR

WAKEUPS = f"{ANCHOR}:wakeups"
DRAINING = f"{ANCHOR}:draining"
LOST = f"{ANCHOR}:lost"
MANAGER = f"{ANCHOR}:manager"
KEPT = f"{ANCHOR}:kept"
POLICY = f"{ANCHOR}:policy"
RUNTIMES = f"{ANCHOR}:runtimes"
EVENTS = f"{ANCHOR}:events"
HOST = f"{ANCHOR}:host"
WORKERS = f"{ANCHOR}:workers"

CHANGED = "changed"
"""The note in `wakeups` that makes the manager look at everything; others make it look at what wants to grow."""


def grants(holder: str) -> str:
    """The list on which a process's waiters are told."""
    return f"{ANCHOR}:grants:{holder}"
