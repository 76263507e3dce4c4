"""The keys that Python uses itself. Only scripts use the others (docs/redis-keys.md)."""

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
"""The note in `wakeups` that makes the manager run a full pass. Every other note makes it run a growth pass."""


def held(holder: str) -> str:
    """The leases that a process has reported."""
    return f"{ANCHOR}:held:{holder}"


def grants(holder: str) -> str:
    """The list of notifications for a process: offers of workers for its waiting calls."""
    return f"{ANCHOR}:grants:{holder}"
