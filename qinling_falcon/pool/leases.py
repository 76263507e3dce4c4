"""Leases: the values with which the engine asks the pool for a worker, and the lease that it gets."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Literal, NamedTuple, Protocol

StartKind = Literal["none", "assign", "start"]
"""Why a call was slow to begin, in the API's field `cold`: `none`: a worker held its target already; `assign`: a warm
worker loaded the target; `start`: a worker was started for it."""

Kind = Literal["any", "warm", "loaded"]
"""Which workers a call accepts: `any`: an idle worker that holds the target, else a warm one; `warm`: only a warm one;
`loaded`: only an idle one that holds the target."""


class StaleTarget(Exception):
    """The target has changed since it was resolved. Resolve it again."""


class LeaseRequest(NamedTuple):
    """A call that needs a worker.

    Attributes:
        target: `function_id:version:digest`, which names the code, entry point and limits that a worker has loaded.
        runtime_id: the runtime whose workers can run the target.
        function_id: the function; the lease counts against its limit.
        project_id: the project; the lease counts against its limit.
        execution_id: the execution that the lease is for.
        generations: pairs of (cache key, generation) that were current when the target was resolved.
        run_s: the longest time from the start of the lease to its deadline: timeout, load time and grace.
        detail: what the record of the execution needs, as JSON text. The holder's journal has it until the execution
            is committed. Empty: there is no execution, because the worker is loaded ahead of calls.
        concurrency: the version's own limit of executions at once; None: only the limits of the service hold.
        kind: which workers the call accepts.
        arrived: when the call arrived in this process, on the monotonic clock; None: when it asks for a worker.
        single_use_image: the image of the worker that the caller makes for this execution alone; None: the call gets a
            worker of the pool.
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
    arrived: float | None = None
    single_use_image: str | None = None

    @property
    def own_limit(self) -> int | str:
        """The version's own limit as an argument of the scripts; '' means no limit."""
        return "" if self.concurrency is None else self.concurrency

    @property
    def queue(self) -> str:
        """The name of the queue in which this call waits, as `scripts/parts/queues.lua` makes it."""
        kind = "warm" if self.kind == "warm" else "any"
        return f"{self.runtime_id}|{self.target}|{kind}|{self.project_id}"


class LeasedWorker(NamedTuple):
    """A worker and the token of its present lease.

    Attributes:
        worker_id: the worker.
        address: of its HTTP server, `host:port` or `@name` (see `addresses`).
        secret: the value of the `X-Worker-Secret` header that the worker expects.
        token: rises with each lease and renewal of the worker. Calls and releases with an older token have no effect.
        needs_load: whether the worker holds no function yet, so that `/load` must come before `/execute`.
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
    """The pool, as its leases see it."""

    def return_unused(self, lease: Lease) -> None:
        """End a lease whose worker was neither loaded nor called."""

    def hand_over(self, lease: Lease, *, destroy: bool, busy_s: float | None) -> None:
        """Give the worker to the next call of this process, or release it."""

    def acknowledge(self, execution_id: str) -> None:
        """Remove an execution from the journal, because it is committed or has not run."""

    def abandon(self, lease: Lease, *, worker: bool) -> None:
        """Have an execution recorded as lost, and drain its worker if `worker`."""


class Lease:
    """The exclusive right to use one worker for one execution, until a deadline.

    A lease is a context manager. In the `with` block, the caller reports its progress by `used`, `released` and
    `committed`. The lease always ends with the block. If the caller left early, there are three cases:

    1. Before `used`: the worker got no request. It is returned to the pool unused.
    2. After `used` and before `released`: the state of the worker is unknown. It drains, and the execution is recorded
       as lost.
    3. After `released`, without `committed` or `withdrawn`: the execution is recorded as lost.

    Args:
        keeper: the pool.
        worker: the worker, under the lease's token.
        execution_id: the execution of the request.
        queue: the name of the queue of the call.
        cold: the start kind of the call.
        since: when the lease started, on the monotonic clock.
        is_journaled: whether the holder's journal has the execution.
    """

    __slots__ = (
        "_is_released", "_is_used", "_keeper", "cold", "execution_id", "is_journaled", "queue", "since", "worker",
    )  # fmt: skip

    def __init__(
        self,
        keeper: LeaseKeeper,
        worker: LeasedWorker,
        execution_id: str,
        queue: str,
        cold: StartKind,
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
        self._is_released = False

    def used(self) -> None:
        """Report that the worker gets a request now, so its state may change."""
        self._is_used = True

    def unused(self) -> None:
        """Take `used` back: the worker could not load the package and has emptied itself, so it is warm again."""
        self._is_used = False

    def released(self, *, destroy: bool = False, busy_s: float | None = None) -> None:
        """Report that this execution needs the worker no longer. The next call may get it at once.

        Args:
            destroy: whether the worker drains instead, because its state is unknown.
            busy_s: for how many seconds the worker had the request; None: unknown.
        """
        self._is_released = True
        self._keeper.hand_over(self, destroy=destroy, busy_s=busy_s)

    def committed(self) -> None:
        """Report that the final record of the execution is durable."""
        self._close_journal()

    def withdrawn(self) -> None:
        """Report that the execution has not run on this worker, so this lease needs no record."""
        self._close_journal()

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_released:
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
    """The number of a runtime's workers that answer, and of those of them that hold no function."""

    total: int
    available: int
