"""What travels between the invoker and the pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cold = Literal["none", "assign", "start"]
"""What a call had to wait for: nothing, a warm worker's loading, a worker's start."""

Which = Literal["any", "fresh", "loaded"]
"""Which worker will do: one that holds the target or no function yet; the latter alone; the former alone."""


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
        generations: pairs of (what, generation) that the target was resolved under.
        run_s: longest run: timeout, load time and grace; the lease's deadline is the start of the lease + `run_s`.
        detail: JSON text, handed back by the reaper and by `find`: what an execution's record needs; empty: there
            is no execution, the worker is to be loaded ahead of calls.
        fresh: only a worker that holds no function yet will do, also where others hold the target.
    """

    target: str
    runtime_id: str
    function_id: str
    project_id: str
    execution_id: str
    generations: tuple[tuple[str, str], ...]
    run_s: float
    detail: str
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Lease:
    """The exclusive right to use one worker until a deadline.

    Attributes:
        worker_id: the worker.
        address: `host:port` of its HTTP server.
        secret: what its `X-Worker-Secret` header must hold.
        token: fences late calls and releases: a later lease of the worker has a higher one.
        execution_id: as asked for.
        target: as asked for.
        runtime_id: as asked for.
        cold: what the call had to wait for.
        needs_load: the worker holds no function yet; `/load` comes before `/execute`.
    """

    worker_id: str
    address: str
    secret: str
    token: int
    execution_id: str
    target: str
    runtime_id: str
    cold: Cold
    needs_load: bool


@dataclass(frozen=True, slots=True)
class Capacity:
    """A runtime's workers: all that answer, and those of them that hold no function."""

    total: int
    available: int
