"""Runtimes: the database operations of the API and the pool manager."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from qinling_falcon.errors import Conflict, Forbidden
from qinling_falcon.models import clock
from qinling_falcon.models.database import engine, reading, transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.rows import change, find
from qinling_falcon.models.scope import Context, scoped, system
from qinling_falcon.models.states import Isolation, RuntimeStatus
from qinling_falcon.models.tables import Runtime

__all__ = [
    "LISTS",
    "Runtime",
    "RuntimeStatus",
    "create",
    "delete",
    "everything",
    "get",
    "register",
    "remove",
    "unregistered",
    "update",
]

LISTS = ListSpec(
    Runtime,
    filters={
        "id": Column(Runtime.id, Kind.TEXT),
        "name": Column(Runtime.name, Kind.TEXT),
        "description": Column(Runtime.description, Kind.TEXT),
        "image": Column(Runtime.image, Kind.TEXT),
        "is_public": Column(Runtime.is_public, Kind.BOOLEAN),
        "trusted": Column(Runtime.trusted, Kind.BOOLEAN),
        "status": Column(Runtime.status, Kind.TEXT),
        "status_reason": Column(Runtime.status_reason, Kind.TEXT),
        "isolation": Column(Runtime.isolation, Kind.TEXT),
        "project_id": Column(Runtime.project_id, Kind.TEXT),
        "created_at": Column(Runtime.created_at, Kind.TIME),
        "updated_at": Column(Runtime.updated_at, Kind.TIME),
    },
    sort_keys={
        "created_at": Runtime.created_at,
        "updated_at": Runtime.updated_at,
        "name": Runtime.name,
        "status": Runtime.status,
    },
)


def create(
    context: Context,
    *,
    image: str,
    name: str | None = None,
    description: str | None = None,
    is_public: bool = True,
    trusted: bool = True,
    isolation: str = Isolation.WARM.value,
    runtime_id: str | None = None,
    now: datetime.datetime | None = None,
) -> Runtime:
    """Create a runtime with status `creating`. The pool manager makes it available."""
    runtime = Runtime(
        id=runtime_id or str(uuid.uuid4()),
        project_id=context.project_id,
        created_at=now or clock.now(),
        image=image,
        name=name,
        description=description,
        is_public=is_public,
        trusted=trusted,
        isolation=isolation,
        status=RuntimeStatus.CREATING.value,
    )
    transact(lambda: runtime.save(force_insert=True))
    return runtime


def unregistered(context: Context, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The runtimes of `wanted` (pairs of name and image) whose name no runtime visible to the caller has."""
    with reading():
        return _missing(context, wanted)


def register(context: Context, wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Create the missing runtimes of `wanted` (see `unregistered`). Concurrent callers create each runtime once.

    Returns:
        The names of the new runtimes.
    """

    def write() -> list[str]:
        # SQLite needs no lock, because it has one writer at a time.
        if engine().for_update:
            engine().execute_sql("LOCK TABLE runtimes IN SHARE ROW EXCLUSIVE MODE")
        missing = _missing(context, wanted)
        for name, image in missing:
            Runtime.create(id=str(uuid.uuid4()), project_id=context.project_id, image=image, name=name)
        return [name for name, _ in missing]

    return transact(write)


def _missing(context: Context, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    names = [name for name, _ in wanted]
    known = {row.name for row in scoped(context).runtimes().where(Runtime.name.in_(names))}
    return [(name, image) for name, image in wanted if name not in known]


def get(context: Context, runtime_id: str) -> Runtime:
    """A runtime that the caller may see.

    Raises:
        NotFound: unknown, or neither the caller's nor public.
    """
    return find(scoped(context, by_id=True).runtimes(), runtime_id)


def update(
    context: Context, runtime_id: str, changes: Mapping[str, Any], *, now: datetime.datetime | None = None
) -> Runtime:
    """Change `name`, `description`, `isolation` or `image`. Another image has to prove itself: status `upgrading`.

    It is on trial as long as `previous_image` names the one before (see `rollout.py`).

    Raises:
        NotFound: as `get`.
        Conflict: another image for a runtime that is not available.
    """

    def write() -> Runtime:
        runtime = find(scoped(context, by_id=True).runtimes(), runtime_id, lock=True)
        columns = dict(changes) | {"updated_at": now or clock.now()}
        if columns.get("image", runtime.image) != runtime.image:
            if runtime.status != RuntimeStatus.AVAILABLE:
                raise Conflict(f"Runtime {runtime_id} is {runtime.status}: its image can't change now.")
            columns |= {
                "previous_image": runtime.image,
                "status": RuntimeStatus.UPGRADING.value,
                "status_reason": None,
            }
        return change(runtime, columns)

    return transact(write)


def delete(context: Context, runtime_id: str) -> Runtime:
    """Set a runtime's status to `deleting`; the pool manager ends its workers and then calls `remove`.

    From then on no function can be made in it. A second time is no error.

    Raises:
        NotFound: as `get`.
        Forbidden: a function of any project, or a version of one, uses it.
    """

    def write() -> Runtime:
        runtime = find(scoped(context, by_id=True).runtimes(), runtime_id, lock=True)
        using = system("a function of any project keeps a runtime")
        for select in (using.functions(), using.versions()):
            if select.where(select.model.runtime_id == runtime_id).exists():
                raise Forbidden(f"Runtime {runtime_id} is still in use by functions.")
        return change(runtime, {"status": RuntimeStatus.DELETING.value})

    return transact(write)


def not_available(runtime: Runtime, field: str | None = None) -> Conflict:
    """The error for using a runtime that is not available. The message gives the reason, or says to wait."""
    message = f"Runtime {runtime.id} is not available: it is {runtime.status}"
    if runtime.status == RuntimeStatus.ERROR and runtime.status_reason:
        message += f" ({runtime.status_reason})."
    elif runtime.status in (RuntimeStatus.CREATING, RuntimeStatus.UPGRADING):
        message += "; try again when its status is available."
    else:
        message += "."
    return Conflict(f"{field}: {message}" if field else message, errors={field: [message]} if field else None)


def everything() -> list[Runtime]:
    """All runtimes, in order of creation: what the pool manager compares the pools with."""
    with reading():
        return list(system("the pool manager serves all projects").runtimes().order_by(Runtime.created_at))


def remove(runtime_id: str) -> bool:
    """Delete the row of a runtime whose workers are gone; False: it is gone, or not being deleted."""

    def write() -> bool:
        removed: int = (
            Runtime.delete()
            .where((Runtime.id == runtime_id) & (Runtime.status == RuntimeStatus.DELETING.value))
            .execute()
        )
        return removed > 0

    return transact(write)
