"""The states of a worker in the pool."""

from __future__ import annotations

from enum import StrEnum


class WorkerState(StrEnum):
    """A worker is in exactly one of these; one that is gone has no record."""

    STARTING = "starting"
    """Asked for, does not answer yet."""
    WARM = "warm"
    """Answers, holds no function."""
    IDLE = "idle"
    """Holds one target and waits for its next call."""
    LEASED = "leased"
    """Belongs to one invocation until its deadline."""
    DRAINING = "draining"
    """Gets no more calls and has none: to be destroyed."""
