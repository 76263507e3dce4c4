"""Leases: what the engine asks the pool for, and what it gets."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Protocol

Cold = Literal["none", "assign", "start"]
"""The start kind of a call: it had to wait for nothing, for a warm worker's loading, or for a worker's start."""

Kind = Literal["any", "warm", "loaded"]
"""Which worker will do: an idle one that holds the target or else a warm one; only a warm one; only an idle one."""


class StaleTarget(Exception):
    """The target was resolved under another generation than the present one: resolve it again."""


@dataclass(frozen=True, slots=True)
class LeaseRequest:
    """A call that needs a worker.

    Attributes:
        target: `function_id:version:digest`, the code, entry and limits that a worker has loaded.
        runtime_id: whose workers can run it.
        function_id: counts against the function's limit.
        project_id: counts against the project's limit.
        execution_id: the run this lease is for.
        generations: pairs of (cache key, generation) that the target was resolved under.
        run_s: longest run: timeout, load time and grace; the lease's deadline is the start of the lease + `run_s`.
        detail: JSON text, which the holder's journal has until the execution is committed: what its record needs.
            Empty: there is no execution, the worker is loaded ahead of calls.
        concurrency: the version's own limit of executions at once; None: the limits of the service alone.
        kind: which worker will do.
    """

    target: str
    runtime_id: str
    function_id: str
    project_id: str
    execution_id: str
    generations: tuple[tuple[str, str], ...]
    run_s: float
    detail: str
    concurrency: int | None = None
    kind: Kind = "any"

    @property
    def queue(self) -> str:
        """The name of the queue in which this call waits, as `scripts/parts/queues.lua` makes it."""
        kind = "warm" if self.kind == "warm" else "any"
        return f"{self.runtime_id}|{self.target}|{kind}|{self.project_id}"


@dataclass(frozen=True, slots=True)
class LeasedWorker:
    """A worker under one token.

    Attributes:
        worker_id: the worker.
        address: `host:port` of its HTTP server.
        secret: what its `X-Worker-Secret` header must hold.
        token: fences late calls and releases: a later lease of the worker, or a renewal, has a higher one.
        needs_load: the worker holds no function yet; `/load` comes before `/execute`.
    """

    worker_id: str
    address: str
    secret: str
    token: int
    needs_load: bool

    @property
    def name(self) -> str:
        """The lease as heartbeats name it."""
        return f"{self.worker_id}:{self.token}"


class LeaseKeeper(Protocol):
    """What a lease tells the pool that it came from."""

    def return_unused(self, lease: Lease) -> None:
        """End a lease whose worker was neither loaded nor called."""

    def hand_over(self, lease: Lease, *, destroy: bool, busy_s: float | None) -> None:
        """The worker is free: it runs the next call of this process, or is released."""

    def acknowledge(self, execution_id: str) -> None:
        """An execution needs no journal any more."""

    def abandon(self, lease: Lease, *, worker: bool) -> None:
        """Hand an execution on as lost, and drain its worker if `worker`."""


class Lease:
    """The exclusive right to use one worker for one execution, until a deadline.

    A lease is a context manager. In its body, the caller says how far it came. At the end of the body, nothing of the
    lease is left:

    1. The worker got no request: it is returned to the pool unused.
    2. `used`, and no `finished`: the state of the worker is unknown. It drains, and the execution is recorded as lost.
    3. `finished`, and neither `committed` nor `withdrawn`: the execution is recorded as lost.

    Args:
        keeper: the pool.
        worker: the worker, under the lease's token.
        execution_id: as asked for.
        queue: the name of the queue of the call.
        cold: the start kind of the call.
        since: when the lease began, on the monotonic clock.
        is_journaled: whether the holder's journal has the execution.
    """

    __slots__ = (
        "_is_finished", "_is_used", "_keeper", "cold", "execution_id", "is_journaled", "queue", "since", "worker",
    )  # fmt: skip

    def __init__(
        self,
        keeper: LeaseKeeper,
        worker: LeasedWorker,
        execution_id: str,
        queue: str,
        cold: Cold,
        since: float,
        is_journaled: bool,
    ):
        self._keeper = keeper
        self.worker = worker
        self.execution_id = execution_id
        self.queue = queue
        self.cold = cold
        self.since = since
        self.is_journaled = is_journaled
        self._is_used = False
        self._is_finished = False

    def used(self) -> None:
        """From now on the worker may have been changed."""
        self._is_used = True

    def unused(self) -> None:
        """The worker is what it was before: it could not load the package, and has emptied itself."""
        self._is_used = False

    def finished(self, *, destroy: bool = False, busy_s: float | None = None) -> None:
        """The worker is free for the next execution. With `destroy` it is not used again: its state is unknown.

        Args:
            destroy: whether the worker drains.
            busy_s: for how many seconds the worker had the request; None: not known.
        """
        self._is_finished = True
        self._keeper.hand_over(self, destroy=destroy, busy_s=busy_s)

    def committed(self) -> None:
        """The execution's final record is durable."""
        self._close_journal()

    def withdrawn(self) -> None:
        """The execution has not run on this worker, and is not to be recorded because of this lease."""
        self._close_journal()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_finished:
            if self.is_journaled:
                self._keeper.abandon(self, worker=False)
        elif self._is_used:
            self._keeper.abandon(self, worker=True)
        else:
            self._keeper.return_unused(self)

    def _close_journal(self) -> None:
        if self.is_journaled:
            self.is_journaled = False
            self._keeper.acknowledge(self.execution_id)


@dataclass(frozen=True, slots=True)
class Capacity:
    """A runtime's workers: all that answer, and those of them that hold no function."""

    total: int
    available: int
