"""A model of the processes that lease workers: their leases, waiting calls and executions."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Call:
    """A call. Each target belongs to one project and one runtime.

    Attributes:
        own_limit: the version's own limit of executions at once, or ''.
    """

    runtime: str
    target: str
    function: str
    project: str
    own_limit: str = ""

    @property
    def version(self) -> str:
        return ":".join(self.target.split(":")[:2])

    @property
    def key(self) -> str:
        return f"function:{self.function}"

    def queue(self, kind: str) -> str:
        return f"{self.runtime}|{self.target}|{'warm' if kind == 'warm' else 'any'}|{self.project}"


@dataclass
class Waiting:
    """A call of a process that waits.

    Attributes:
        generation: the generation under which it was resolved.
        is_counted: whether Redis counts it, because it has asked Redis or has waited for long in the process.
    """

    arrived: int
    generation: str
    is_counted: bool


@dataclass
class Held:
    """A lease that its process knows. `execution` is None for an offer."""

    worker: str
    token: int
    queue: str
    execution: str | None
    is_new: bool

    @property
    def name(self) -> str:
        return f"{self.worker}:{self.token}"


@dataclass
class Holder:
    """A process.

    Attributes:
        leases: its leases by worker.
        waiting: its waiting calls by queue, the oldest first.
        entries: the count of its entry in each queue, as the process knows it.
        unsure: queues in which Redis may have another count, because a reply was lost.
        answered: executions whose worker has answered, and whose record is not committed.
        committed: committed executions that Redis still has in the journal.
        as_of: Redis's time in the reply to the last heartbeat.
    """

    name: str
    leases: dict[str, Held] = field(default_factory=dict)
    waiting: defaultdict[str, list[Waiting]] = field(default_factory=lambda: defaultdict(list))
    entries: Counter[str] = field(default_factory=Counter)
    unsure: set[str] = field(default_factory=set)
    answered: list[str] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)
    as_of: int = 0

    def change(self, queue: str) -> str:
        """The change of its entry in a queue, as an argument of the scripts. See `LocalQueue.change`."""
        counted = sum(one.is_counted for one in self.waiting[queue])
        change = f"={counted}" if queue in self.unsure else f"{counted - self.entries[queue]:+d}"
        self.unsure.discard(queue)
        self.entries[queue] = counted
        return change

    def oldest(self, queue: str, now: int) -> int:
        """For how many ms the oldest call in a queue has waited."""
        return now - self.waiting[queue][0].arrived if self.waiting[queue] else 0
