"""Who is asking for rows. Nothing in `models/` can be queried without one of these."""

from __future__ import annotations

from dataclasses import dataclass

import peewee

from qinling_falcon.errors import Forbidden
from qinling_falcon.models.tables import Execution, Function, Runtime


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request: the project that owns what it makes, and whether it is an admin."""

    project_id: str
    is_admin: bool = False


@dataclass(frozen=True, slots=True)
class Scope:
    """Queries that hold nothing but what their asker may see; made by `scoped` and `system` alone.

    Attributes:
        project_id: the project whose rows are seen; None: all projects'.
    """

    project_id: str | None

    def runtimes(self) -> peewee.ModelSelect[Runtime]:
        """The project's runtimes, and the public ones."""
        select = Runtime.select()
        if self.project_id is None:
            return select
        return select.where((Runtime.project_id == self.project_id) | Runtime.is_public)

    def functions(self) -> peewee.ModelSelect[Function]:
        """The project's functions."""
        select = Function.select()
        return select if self.project_id is None else select.where(Function.project_id == self.project_id)

    def executions(self) -> peewee.ModelSelect[Execution]:
        """The project's executions, without their logs."""
        select = Execution.select(*_WITHOUT_LOG)
        return select if self.project_id is None else select.where(Execution.project_id == self.project_id)


def scoped(context: Context, *, by_id: bool = False, all_projects: bool = False) -> Scope:
    """What the caller may see.

    Args:
        context: the caller.
        by_id: for rows that the caller names by id: an admin reaches those of all projects.
        all_projects: for lists: those of all projects, which only an admin may ask for.

    Raises:
        Forbidden: `all_projects` by somebody else.
    """
    if all_projects and not context.is_admin:
        raise Forbidden("Operation not allowed: only an admin may list all projects.")
    everything = all_projects or (by_id and context.is_admin)
    return Scope(None if everything else context.project_id)


def system(reason: str) -> Scope:
    """Everything, for the service itself.

    Args:
        reason: why no caller's scope applies here, for those who read or search the code.
    """
    if not reason:
        raise ValueError("a reason is needed to see all projects' rows")
    return Scope(None)


_WITHOUT_LOG = tuple(field for field in Execution._meta.sorted_fields if field is not Execution.log)
