"""The seam between the warm pool and whatever makes its workers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class UnknownImage(Exception):
    """No worker can be made from this image; the message says why."""


class StartFailed(Exception):
    """A worker did not become ready; the message says why."""


class AlreadyRunning(Exception):
    """Another live manager has the workers of this orchestrator; the message says which."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A worker that answers.

    Attributes:
        worker_id: the id that the caller chose.
        address: `host:port` of its HTTP server.
        secret: what its `X-Worker-Secret` header must hold.
        runtime_id: whose worker it is; empty: nobody's.
        image: what it was made from.
        since: when it was started, in seconds since 1970; 0: unknown.
        cpu_ms: the CPU time that its start took; 0: unknown, or spent on another machine.
    """

    worker_id: str
    address: str
    secret: str
    runtime_id: str = ""
    image: str = ""
    since: float = 0.0
    cpu_ms: float = 0.0


class Happening(enum.Enum):
    """What happened to a worker that nobody destroyed."""

    ENDED = "ended"
    """It ended by itself. Nothing of it is left."""
    FAILED = "failed"
    """It exists, but will not serve any more."""
    CHANGED = "changed"
    """It serves, but is not what it was: it was restarted, or has another address. What it held is lost."""


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """Something that happened to a worker.

    Attributes:
        worker_id: the worker.
        happening: what happened.
        reason: why, for the operator.
    """

    worker_id: str
    happening: Happening
    reason: str


@dataclass(frozen=True, slots=True)
class Confinement:
    """How an orchestrator confines its workers.

    Attributes:
        form: the kind of isolation.
        missing: what the host can't give: pairs of the feature and what its absence means.
    """

    form: str
    missing: tuple[tuple[str, str], ...] = ()


class Orchestrator(Protocol):
    """Makes, watches and destroys workers. All calls come from one process, its main thread.

    Attributes:
        concurrent_starts: how many starts may run at once.
        workers_outlive_manager: whether workers live on when their manager has stopped or was killed. The next manager
            then adopts what `list` shows.
    """

    concurrent_starts: int
    workers_outlive_manager: bool

    @property
    def most_workers(self) -> int:
        """How many workers there can be, if `MAX_WORKERS` does not say."""

    def confinement(self) -> Confinement:
        """How the workers are confined, for the operator."""

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no worker can be made from `image`."""

    def start(self, worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        """Make a worker and wait (cooperatively) until it answers.

        Args:
            worker_id: a new id.
            image: what to make it from.
            runtime_id: whose worker it is, as `list` shows it.

        Raises:
            UnknownImage: as `check`.
            StartFailed: it ended or did not answer in time; nothing of it is left.
        """

    def destroy(self, worker_id: str) -> None:
        """End a worker with everything in it, and wait until it is gone. Unknown ids are no error."""

    def events(self) -> Sequence[WorkerEvent]:
        """What happened to workers since the last call, each thing once."""

    def list(self) -> Sequence[WorkerInfo]:
        """The live workers, also those that an earlier manager has started and that outlived it."""

    def detach(self) -> None:
        """This manager stops. Workers that outlive their manager live on; all others end."""
