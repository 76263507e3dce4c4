"""The interface between the warm pool and an orchestrator, which makes the pool's workers."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qinling_falcon.errors import Unavailable


class UnknownImage(Exception):
    """No worker can be made from this image. The message gives the reason."""


class StartFailed(Exception):
    """A worker did not become ready. The message gives the reason."""


class AlreadyRunning(Exception):
    """Another live manager has the workers of this orchestrator. The message names it."""


class OrchestratorAway(Unavailable):
    """The server by which the orchestrator makes workers is away. Nothing is lost, and no image is at fault."""


class NoRoom(OrchestratorAway):
    """There is no room for another worker now. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class SingleUse:
    """The lease of a single-use worker, which runs one execution and then ends.

    Attributes:
        holder: the process that has the lease.
        lease: its name, as in the heartbeats of that process.
    """

    holder: str
    lease: str


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A live worker.

    Attributes:
        worker_id: the id that the caller chose.
        address: of its HTTP server, `host:port` or `@name` (see `addresses`).
        secret: the value of the `X-Worker-Secret` header that it expects.
        runtime_id: its runtime; empty: none.
        image: the image that it was made from.
        since: when it was started, in seconds since 1970; 0: unknown.
        cpu_ms: the CPU time that its start took; 0: unknown, or spent on another machine.
        single_use: the lease for which it was made; None: it runs any number of executions. A single-use worker has no
            address and no secret, and its runtime is empty.
    """

    worker_id: str
    address: str
    secret: str
    runtime_id: str = ""
    image: str = ""
    since: float = 0.0
    cpu_ms: float = 0.0
    single_use: SingleUse | None = None


@dataclass(frozen=True, slots=True)
class RuntimeImage:
    """The image from which the next workers of a runtime are made.

    Attributes:
        runtime_id: the runtime.
        image: the image, as the runtime's row has it.
        trusted: the runtime's field `trusted`.
    """

    runtime_id: str
    image: str
    trusted: bool = True


class Happening(enum.Enum):
    """What happened to a worker that the manager did not destroy."""

    ENDED = "ended"
    """It ended by itself. Nothing of it is left."""
    FAILED = "failed"
    """It exists, but will not serve any more."""
    CHANGED = "changed"
    """It serves, but was restarted or has another address, so it does not hold its target any more."""


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
        missing: the features that the host does not have: pairs of the feature and what its absence means.
    """

    form: str
    missing: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class ServerState:
    """The state of the server that an orchestrator depends on, such as the API server of a cluster.

    Attributes:
        away_since: since when it has not answered, in seconds since 1970; None: it answers.
        reason: why it is away.
        requests_per_minute: how many requests it got in the last minute.
        request_budget: the most requests that it gets in a minute.
    """

    away_since: float | None
    reason: str | None
    requests_per_minute: int
    request_budget: int


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
        """The most workers, if `MAX_WORKERS` is not set."""

    def limit(self) -> int | None:
        """The most workers at present, because there is no room for more; None: no such limit is known."""

    def confinement(self) -> Confinement:
        """How the workers are confined, for the operator."""

    def server(self) -> ServerState | None:
        """The state of the orchestrator's server; None: it needs no server."""

    def check(self, image: str) -> None:
        """Raise `UnknownImage` when no worker can be made from `image`."""

    def prepare(self, runtimes: Sequence[RuntimeImage]) -> None:
        """Prepare starts of workers, and remove what was prepared for other runtimes.

        Args:
            runtimes: all runtimes that have workers. During a rollout, each one has its new image here.

        Raises:
            OrchestratorAway: a later call does the rest.
        """

    def start(self, worker_id: str, image: str, runtime_id: str = "") -> WorkerInfo:
        """Make a worker and wait (cooperatively) until it answers.

        Args:
            worker_id: a new id.
            image: the image to make it from.
            runtime_id: its runtime, which `list` shows.

        Raises:
            UnknownImage: as `check`.
            StartFailed: it ended or did not answer in time. It was removed completely.
            OrchestratorAway: no worker can be made now; `NoRoom` if there is no room for it.
        """

    def destroy(self, worker_id: str) -> None:
        """End a worker with everything in it, and wait until it is gone. Unknown ids are no error.

        A worker on a machine that does not answer any more counts as gone after some time, in which it must end by
        itself.

        Raises:
            OrchestratorAway: it may still live.
        """

    def events(self) -> Sequence[WorkerEvent]:
        """The events of workers since the last call, each one once."""

    def list(self) -> Sequence[WorkerInfo]:
        """The live workers, including those of an earlier manager that have outlived it.

        Raises:
            OrchestratorAway: it is not known yet which workers live.
        """

    def detach(self) -> None:
        """Stop managing. Workers that outlive their manager live on, and all others end."""
