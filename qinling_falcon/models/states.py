"""The enums that are stored in columns and shown by the API."""

from __future__ import annotations

from enum import StrEnum


class RuntimeStatus(StrEnum):
    """The states of a runtime; functions run in one that is available."""

    CREATING = "creating"
    AVAILABLE = "available"
    ERROR = "error"
    UPGRADING = "upgrading"
    DELETING = "deleting"


class Isolation(StrEnum):
    """How a function's calls are separated: `warm` calls share a process; with `per_call`, each call has its own."""

    WARM = "warm"
    PER_CALL = "per_call"


class JobStatus(StrEnum):
    """The states of a job; `done` and `cancelled` are final, the others live."""

    RUNNING = "running"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    DONE = "done"


class Misfire(StrEnum):
    """Whether a job makes up for times at which it could not fire: once for all of them, or not at all."""

    RUN_ONCE = "run_once"
    SKIP = "skip"


class Overlap(StrEnum):
    """Whether a job fires while its last execution has not ended."""

    ALLOW = "allow"
    FORBID = "forbid"


class ExecutionStatus(StrEnum):
    """The states of an execution; all but `running` are final."""

    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    ERROR = "error"
    CANCELLED = "cancelled"
    DEAD = "dead"
