"""Functions: what the API does with them."""

from __future__ import annotations

import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qinling_falcon.errors import Conflict
from qinling_falcon.models import clock
from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.rows import change, check_owner, find
from qinling_falcon.models.scope import Context, scoped, system
from qinling_falcon.models.tables import Function, RuntimeStatus

__all__ = ["LISTS", "Function", "Updated", "create", "delete", "get", "package_keys", "update"]

LISTS = ListSpec(
    Function,
    filters={
        "id": Column(Function.id, Kind.TEXT),
        "name": Column(Function.name, Kind.TEXT),
        "description": Column(Function.description, Kind.TEXT),
        "runtime_id": Column(Function.runtime_id, Kind.TEXT),
        "entry": Column(Function.entry, Kind.TEXT),
        "cpu": Column(Function.cpu, Kind.INTEGER),
        "memory_size": Column(Function.memory_size, Kind.INTEGER),
        "timeout": Column(Function.timeout, Kind.INTEGER),
        "count": Column(Function.count, Kind.INTEGER),
        "latest_version": Column(Function.latest_version, Kind.INTEGER),
        "project_id": Column(Function.project_id, Kind.TEXT),
        "created_at": Column(Function.created_at, Kind.TIME),
        "updated_at": Column(Function.updated_at, Kind.TIME),
    },
    sort_keys={
        "created_at": Function.created_at,
        "updated_at": Function.updated_at,
        "name": Function.name,
    },
)

# What a worker loads depends on these; a function in which one of them changes is another target.
_LOADED = ("runtime_id", "code", "entry", "cpu", "memory_size")


@dataclass(frozen=True, slots=True)
class Updated:
    """The outcome of an update.

    Attributes:
        function: the row as it is now.
        reload: whether its workers hold something else now.
        replaced_package: key of the package that no row names any more, to be deleted.
    """

    function: Function
    reload: bool
    replaced_package: str | None


def create(
    context: Context,
    *,
    name: str | None,
    runtime_id: str,
    code: Mapping[str, Any],
    entry: str,
    cpu: int,
    memory_size: int,
    timeout: int,
    package_key: str | None,
    description: str | None = None,
    function_id: str | None = None,
    now: datetime.datetime | None = None,
) -> Function:
    """A new function of the caller's project, in a runtime that is available at that moment.

    Raises:
        NotFound: the runtime is unknown, or neither the caller's nor public.
        Conflict: it is not available.
    """
    function = Function(
        id=function_id or str(uuid.uuid4()),
        project_id=context.project_id,
        created_at=now or clock.now(),
        name=name,
        description=description,
        runtime_id=runtime_id,
        code=dict(code),
        entry=entry,
        cpu=cpu,
        memory_size=memory_size,
        timeout=timeout,
        package_key=package_key,
    )
    function.digest = _digest(function)

    def write() -> None:
        _check_runtime(context, runtime_id)
        function.save(force_insert=True)

    transact(write)
    return function


def get(context: Context, function_id: str, *, field: str | None = None) -> Function:
    """A function that the caller may see.

    Args:
        context: the caller.
        function_id: its id.
        field: the request's field that it came in, for the message.

    Raises:
        NotFound: unknown, or not the caller's.
    """
    return find(scoped(context, by_id=True).functions(), function_id, field=field)


def update(
    context: Context, function_id: str, changes: Mapping[str, Any], *, now: datetime.datetime | None = None
) -> Updated:
    """Change some columns of a function.

    Args:
        context: the caller.
        function_id: its id.
        changes: among `name, description, timeout, runtime_id, code, entry, cpu, memory_size, package_key`.
        now: the time of the change.

    Raises:
        NotFound: the function, or the new runtime, is unknown or not the caller's.
        Forbidden: it is another project's.
        Conflict: the new runtime is not available.
    """

    def write() -> Updated:
        function = find(scoped(context, by_id=True).functions(), function_id, lock=True)
        check_owner(context, function, "change")
        columns = dict(changes)
        if columns.get("runtime_id", function.runtime_id) != function.runtime_id:
            _check_runtime(context, columns["runtime_id"])
        old_key, old_digest = function.package_key, function.digest
        for name in _LOADED:
            if name in columns:
                setattr(function, name, columns[name])
        columns |= {"digest": _digest(function), "updated_at": now or clock.now()}
        change(function, columns)
        replaced = old_key if function.package_key != old_key else None
        return Updated(function, function.digest != old_digest or replaced is not None, replaced)

    return transact(write)


def delete(context: Context, function_id: str) -> Function:
    """Delete a function of the caller's project; its executions stay.

    Returns:
        The row as it was: its package is to be deleted, its workers are to be drained.

    Raises:
        NotFound: unknown, or not the caller's.
        Forbidden: it is another project's, and the caller an admin.
    """

    def write() -> Function:
        function = find(scoped(context, by_id=True).functions(), function_id, lock=True)
        check_owner(context, function, "delete")
        Function.delete().where(Function.id == function_id).execute()
        return function

    return transact(write)


def package_keys() -> set[str]:
    """Keys of all packages that a row names, for the sweep of those that none names."""
    with reading():
        functions = system("packages of all projects lie in one store").functions().select(Function.package_key)
        return {function.package_key for function in functions if function.package_key is not None}


def _check_runtime(context: Context, runtime_id: str) -> None:
    """In the transaction that makes a function use the runtime; the lock keeps `runtime.delete` out until it ends."""
    runtime = find(scoped(context).runtimes(), runtime_id, lock=True, field="runtime_id")
    if runtime.status != RuntimeStatus.AVAILABLE:
        raise Conflict(f"Runtime {runtime_id} is not available: it is {runtime.status}.")


def _digest(function: Function) -> str:
    """A name for what a worker loads: another package, entry, limit or runtime gives another name."""
    loaded = [getattr(function, name) for name in _LOADED]
    return hashlib.sha256(json.dumps(loaded, sort_keys=True).encode()).hexdigest()
