"""Who is asking for rows. Nothing in `models/` can be queried without one of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import peewee

from qinling_falcon.models.tables import Alias, Execution, Function, Job, Row, Runtime, Version, Webhook

R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class Context:
    """The caller of one request.

    Attributes:
        project_id: the project that owns what it makes.
        is_admin: whether it sees the rows of all projects.
        user_id: None: nobody known.
        roles: its roles in the project.
    """

    project_id: str
    is_admin: bool = False
    user_id: str | None = None
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scope:
    """Queries that hold nothing but what their asker may see; made by `scoped`, `system` and `project_of` alone.

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
        return self._own(Function.select())

    def versions(self) -> peewee.ModelSelect[Version]:
        """The versions of the project's functions."""
        return self._own(Version.select())

    def aliases(self) -> peewee.ModelSelect[Alias]:
        """The project's aliases."""
        return self._own(Alias.select())

    def webhooks(self) -> peewee.ModelSelect[Webhook]:
        """The project's webhooks."""
        return self._own(Webhook.select())

    def jobs(self) -> peewee.ModelSelect[Job]:
        """The project's jobs."""
        return self._own(Job.select())

    def executions(self) -> peewee.ModelSelect[Execution]:
        """The project's executions, without their logs."""
        return self._own(Execution.select(*WITHOUT_LOG))

    def _own(self, select: peewee.ModelSelect[R]) -> peewee.ModelSelect[R]:
        return select if self.project_id is None else select.where(select.model.project_id == self.project_id)


def scoped(context: Context, *, by_id: bool = False, all_projects: bool = False) -> Scope:
    """What the caller may see.

    Args:
        context: the caller.
        by_id: for rows that the caller names by id: an admin reaches those of all projects.
        all_projects: for lists: those of all projects, for whom a policy lets see them.
    """
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


def project_of(row: Row) -> Scope:
    """What the project of a row, which its asker has reached already, may see."""
    return Scope(row.project_id)


WITHOUT_LOG = tuple(field for field in Execution._meta.sorted_fields if field is not Execution.log)
