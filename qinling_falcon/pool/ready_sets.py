"""The ready sets: which accepted executions wait to be claimed, as a hint in Redis.

The database has all accepted executions (`models/execution_queue.py`). A set may miss one, after a crash or a loss of
Redis, and may have one that was claimed or has ended. The sweep adds what is missing, and a claim ignores the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from qinling_falcon.pool.runner import ScriptRunner

_MOST_PUSHED = 1000


class Backlog(NamedTuple):
    """What must be known before an execution is accepted.

    Attributes:
        is_current: whether the target is current.
        size: how many executions of the project wait.
    """

    is_current: bool
    size: int


class Taken(NamedTuple):
    """What a drain has taken.

    Attributes:
        ids: the executions.
        next_s: in how many seconds the next execution is due, as far as it is known now; None: no execution waits.
    """

    ids: list[str]
    next_s: float | None


class ReadySets:
    """Adds executions to the ready sets, and takes them out.

    Args:
        scripts: runs scripts.
        holder: the name of this process.
    """

    def __init__(self, scripts: ScriptRunner, holder: str):
        self._scripts = scripts
        self._holder = holder

    def backlog(self, project_id: str, generations: Collection[tuple[str, str]]) -> Backlog:
        """Whether these pairs of (cache key, generation) are current, and the number of a project's waiting executions.

        Raises:
            PoolUnavailable: Redis is away.
        """
        flat = (part for pair in generations for part in pair)
        is_current, size = self._scripts.run("check_backlog", project_id, *flat)
        return Backlog(is_current == 1, size)

    def push(self, project_id: str, execution_id: str, not_before: int | None = None) -> None:
        """Add one execution without waiting for Redis. If the message is lost, the sweep adds it.

        Args:
            project_id: its project.
            execution_id: the execution.
            not_before: when it may be claimed, in microseconds since the epoch; None: now, by the clock of Redis.
        """
        at = "" if not_before is None else _milliseconds(not_before)
        self._scripts.cast("push_ready", project_id, at, execution_id)

    def push_all(self, project_id: str, executions: Iterable[tuple[str, int]]) -> None:
        """Add many executions of one project, as pairs of (execution, not_before as in `push`).

        Raises:
            PoolUnavailable: Redis is away.
        """
        parts = [part for execution_id, micros in executions for part in (_milliseconds(micros), execution_id)]
        for at in range(0, len(parts), 2 * _MOST_PUSHED):
            self._scripts.run("push_ready", project_id, *parts[at : at + 2 * _MOST_PUSHED])

    def take(self, most: int, left_out: Collection[str]) -> Taken:
        """Take up to `most` executions that are due, from all projects but those in `left_out`, in turn.

        If fewer are due, the next push notifies this process with the message `ready`.

        Raises:
            PoolUnavailable: Redis is away.
        """
        next_ms, *ids = self._scripts.run("take_ready", self._holder, most, *left_out)
        return Taken([execution_id.decode() for execution_id in ids], None if next_ms < 0 else next_ms / 1000)


def _milliseconds(micros: int) -> int:
    """As the scripts count; rounded up, so that no execution is taken before it may be claimed."""
    return -(-micros // 1000)
