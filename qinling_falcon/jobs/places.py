"""How a drain shares its room among projects, and among the functions of a project.

A project may have at most three times as many executions in flight as there are free places, and a function at most as
many as its project may still have. So a project alone uses up to three quarters of the places, and a function alone
three fifths; and when there are more, each one's share shrinks as its executions end, so that a further one finds room.
(In networks, this rule for buffers is called "dynamic thresholds".)
"""

from __future__ import annotations

from collections import Counter

from qinling_falcon.pool.ready_sets import Rooms

_PROJECT_FACTOR = 3
# A function that has executions in flight gets more when there is room for this part of their number. So a claim has
# several executions, which share a commit.
_WORTH_A_CLAIM = 0.25


class Places:
    """The executions in flight of a drain.

    Args:
        most: how many places there are.
    """

    def __init__(self, most: int):
        self._most = most
        self._projects: Counter[str] = Counter()
        self._functions: Counter[tuple[str, str]] = Counter()

    @property
    def free(self) -> int:
        """How many places are free."""
        return self._most - self._projects.total()

    def take(self, project_id: str, function_id: str) -> None:
        """Take a place for an execution."""
        self._projects[project_id] += 1
        self._functions[project_id, function_id] += 1

    def give_back(self, project_id: str, function_id: str) -> None:
        """Free the place of an execution that is not in flight any more."""
        self._projects[project_id] -= 1
        self._functions[project_id, function_id] -= 1
        if not self._functions[project_id, function_id]:
            del self._functions[project_id, function_id]
        if not self._projects[project_id]:
            del self._projects[project_id]

    def rooms(self) -> Rooms:
        """For how many further executions of each project and function there is room."""
        fewest = int(self.free == self._most)  # if there are very few places, too
        free = _PROJECT_FACTOR * self.free
        # Each place that is taken is one less that is free, and thus counts `_PROJECT_FACTOR` times more.
        of_project = 1 + _PROJECT_FACTOR
        of_function = 2 + _PROJECT_FACTOR
        return Rooms(
            max(fewest, free // of_project),
            max(fewest, free // of_function),
            {project_id: max(0, free - count) // of_project for project_id, count in self._projects.items()},
            {
                function_id: _worthwhile(count, max(0, free - self._projects[project_id] - count) // of_function)
                for (project_id, function_id), count in self._functions.items()
            },
        )


def _worthwhile(count: int, room: int) -> int:
    return room if room >= _WORTH_A_CLAIM * count else 0
