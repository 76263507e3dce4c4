"""How a drain shares its places among projects, and among the functions of a project.

Each execution in flight takes one place. There are two limits, for which one with a large input counts several times:

1. A project has at most three times as many places as are free.
2. A function has at most as many places as its project may still take.

So a project alone takes up to three quarters of the places, and a function alone three fifths. With more of them, each
one may have fewer. One that has more than its limit keeps its places until its executions end. A further project or
function finds room by then. (In networks, this rule for buffers is called "dynamic thresholds".)
"""

from __future__ import annotations

from collections import Counter

from qinling_falcon.pool.ready_sets import Rooms

_PROJECT_FACTOR = 3
# A function that has places gets more only if it may have at least this fraction of them in addition. So a claim has
# several executions, which share a commit.
_LEAST_GROWTH = 0.25
# A project that takes all places counts as having inputs of so many characters.
_INPUTS = 32 * 1024 * 1024


class Places:
    """The places of the executions in flight of a drain.

    Args:
        most: how many places there are.
    """

    def __init__(self, most: int):
        self._most = most
        self._executions = 0
        self._projects: Counter[str] = Counter()
        self._functions: Counter[tuple[str, str]] = Counter()

    @property
    def free(self) -> int:
        """How many places are free."""
        return max(0, self._most - self._executions)

    def take(self, project_id: str, function_id: str, text: str | None) -> None:
        """Take the place of an execution with this input, even if its project or function had no room."""
        count = self._count(text)
        self._executions += 1
        self._projects[project_id] += count
        self._functions[project_id, function_id] += count

    def give_back(self, project_id: str, function_id: str, text: str | None) -> None:
        """Free the place of an execution that is not in flight any more."""
        count = self._count(text)
        self._executions -= 1
        self._projects[project_id] -= count
        self._functions[project_id, function_id] -= count
        if not self._functions[project_id, function_id]:
            del self._functions[project_id, function_id]
        if not self._projects[project_id]:
            del self._projects[project_id]

    def rooms(self) -> Rooms:
        """For how many further executions of each project and function there is room."""
        fewest = int(not self._projects)  # if all places are free, one execution has room, although limits round to 0
        limit = _PROJECT_FACTOR * self.free
        # With each place that is taken, the limit becomes lower by `_PROJECT_FACTOR`.
        of_project = 1 + _PROJECT_FACTOR
        of_function = 2 + _PROJECT_FACTOR
        return Rooms(
            max(fewest, limit // of_project),
            max(fewest, limit // of_function),
            {project_id: max(0, limit - count) // of_project for project_id, count in self._projects.items()},
            {
                function_id: _worthwhile(count, max(0, limit - self._projects[project_id] - count) // of_function)
                for (project_id, function_id), count in self._functions.items()
            },
        )

    def _count(self, text: str | None) -> int:
        return 1 + len(text or "") * self._most // _INPUTS


def _worthwhile(count: int, room: int) -> int:
    return room if room >= _LEAST_GROWTH * count else 0
