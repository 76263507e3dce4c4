"""The ready sets: which accepted executions wait to be claimed, as a hint in Redis.

The database has all accepted executions (`models/execution_queue.py`). A set may miss one, after a crash or a loss of
Redis, and may have one that was claimed or has ended. The sweep adds what is missing, and a claim ignores the rest.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
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


class Rooms(NamedTuple):
    """For how many further executions a drain has room.

    Attributes:
        project: of a project that is not in `projects`.
        function: of a function that is not in `functions`.
        projects: of projects, by id.
        functions: of functions, by id.
    """

    project: int
    function: int
    projects: Mapping[str, int]
    functions: Mapping[str, int]


class Taken(NamedTuple):
    """What a drain has taken.

    Attributes:
        ids: the executions.
        next_s: in how many seconds a further execution is due for which there is room; None: none is known.
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

    def room(self, project_id: str, limit: int) -> int:
        """How many more executions of a project may wait, if at most `limit` may; 0: its queue is full.

        Raises:
            PoolUnavailable: Redis is away.
        """
        return max(0, limit - self.backlog(project_id, ()).size)

    def push(self, project_id: str, function_id: str, execution_id: str, not_before: int | None = None) -> None:
        """Add one execution without waiting for Redis. If the message is lost, the sweep adds it.

        Args:
            project_id: its project.
            function_id: its function.
            execution_id: the execution.
            not_before: when it may be claimed, in microseconds since the epoch; None: now, by the clock of Redis.
        """
        at = "" if not_before is None else _milliseconds(not_before)
        self._scripts.cast("push_ready", project_id, at, function_id, execution_id)

    def push_all(self, project_id: str, executions: Iterable[tuple[str, str, int]]) -> None:
        """Add many executions of one project, as triples of (function, execution, not_before as in `push`).

        Raises:
            PoolUnavailable: Redis is away.
        """
        parts = [
            part
            for function_id, execution_id, micros in executions
            for part in (_milliseconds(micros), function_id, execution_id)
        ]
        for at in range(0, len(parts), 3 * _MOST_PUSHED):
            self._scripts.run("push_ready", project_id, *parts[at : at + 3 * _MOST_PUSHED])

    def drop(self, project_id: str, function_id: str, execution_ids: Sequence[str]) -> None:
        """Remove executions of a function that have ended, at most some hundreds, without waiting for Redis.

        If the message is lost, they count as waiting until their turn comes.
        """
        if execution_ids:
            self._scripts.cast("drop_ready", project_id, function_id, *execution_ids)

    def take(self, most: int, rooms: Rooms) -> Taken:
        """Take up to `most` executions that are due, from projects in turn, and from the functions of each in turn.

        If fewer are due, a later push may notify this process with the message `ready`. A push wakes one drain.

        Raises:
            PoolUnavailable: Redis is away.
        """
        named = (part for rooms_of in (rooms.projects, rooms.functions) for pair in rooms_of.items() for part in pair)
        next_ms, *ids = self._scripts.run(
            "take_ready", self._holder, most, rooms.project, rooms.function, len(rooms.projects), *named
        )
        return Taken([execution_id.decode() for execution_id in ids], None if next_ms < 0 else next_ms / 1000)


def _milliseconds(micros: int) -> int:
    """As the scripts count; rounded up, so that no execution is taken before it may be claimed."""
    return -(-micros // 1000)
