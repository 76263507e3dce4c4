"""Aliases: names of versions of functions, each unique in its project."""

from __future__ import annotations

import datetime
import random
import uuid
from collections.abc import Mapping
from typing import Any

import peewee

from qinling_falcon.errors import BadRequest, Conflict
from qinling_falcon.models import clock, quotas
from qinling_falcon.models.database import transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.references import alias_named, check_alias_unused, check_target
from qinling_falcon.models.rows import change
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.tables import Alias

__all__ = ["LISTS", "Alias", "create", "delete", "draw_version", "get", "update"]

LISTS = ListSpec(
    Alias,
    filters={
        "id": Column(Alias.id, Kind.TEXT),
        "name": Column(Alias.name, Kind.TEXT),
        "function_id": Column(Alias.function_id, Kind.TEXT),
        "function_version": Column(Alias.function_version, Kind.INTEGER),
        "description": Column(Alias.description, Kind.TEXT),
        "project_id": Column(Alias.project_id, Kind.TEXT),
        "created_at": Column(Alias.created_at, Kind.TIME),
        "updated_at": Column(Alias.updated_at, Kind.TIME),
    },
    sort_keys={
        "created_at": Alias.created_at,
        "updated_at": Alias.updated_at,
        "name": Alias.name,
    },
)

Routing = tuple[int, float]


def draw_version(version: int, routing: Routing | None) -> int:
    """The version that a call of an alias gets: with a routing, the other version for its share of the calls."""
    if routing is not None and random.random() < routing[1]:
        return routing[0]
    return version


def create(
    context: Context,
    *,
    name: str,
    function_id: str,
    function_version: int = 0,
    description: str | None = None,
    routing: Routing | None = None,
    now: datetime.datetime | None = None,
) -> Alias:
    """Create an alias of a function of the caller's project.

    Args:
        context: the caller.
        name: not used by another alias of the project.
        function_id: the function.
        function_version: the version that the alias refers to; 0: the function itself.
        description: the description of the alias.
        routing: another version, and the share of calls (0…1) that go to it.
        now: the time of its creation.

    Raises:
        NotFound: the function or a version does not exist.
        Conflict: the name is taken.
        BadRequest: the routing's version equals `function_version`.
        QuotaExceeded: the project has reached its quota of aliases.
    """
    version, weight = routing or (None, None)
    alias = Alias(
        id=str(uuid.uuid4()),
        project_id=context.project_id,
        created_at=now or clock.now(),
        name=name,
        function_id=function_id,
        function_version=function_version,
        description=description,
        routing_version=version,
        routing_weight=weight,
    )

    def write() -> None:
        quotas.check(context.project_id, quotas.ALIASES)
        if scoped(context).aliases().where(Alias.name == name).exists():
            raise _taken(name)
        _check(context, alias)
        alias.save(force_insert=True)

    try:
        transact(write)
    except peewee.IntegrityError:
        # Another process was quicker.
        raise _taken(name) from None
    return alias


def get(context: Context, name: str) -> Alias:
    """An alias of the caller's project, which is where names are looked for, also for an admin.

    Raises:
        NotFound: there is none.
    """
    return alias_named(scoped(context), name)


def update(
    context: Context, name: str, changes: Mapping[str, Any], *, now: datetime.datetime | None = None
) -> Alias:
    """Change what an alias means. Another function without a version means that function's version 0.

    A routing that is not changed goes when the function does: its version was the other function's.

    Args:
        context: the caller.
        name: the alias.
        changes: among `function_id, function_version, description, routing`; a routing of None ends it.
        now: the time of the change.

    Raises:
        NotFound: the alias, the function or a version is not there.
        BadRequest: the routing's version is `function_version`.
    """

    def write() -> Alias:
        alias = alias_named(scoped(context), name, lock=True)
        columns = dict(changes)
        if columns.get("function_id", alias.function_id) != alias.function_id:
            columns = {"function_version": 0, "routing": None} | columns
        if "routing" in columns:
            columns["routing_version"], columns["routing_weight"] = columns.pop("routing") or (None, None)
        columns["updated_at"] = now or clock.now()
        for column, value in columns.items():
            setattr(alias, column, value)
        _check(context, alias)
        return change(alias, columns)

    return transact(write)


def delete(context: Context, name: str) -> None:
    """Delete an alias.

    Raises:
        NotFound: there is none.
        Forbidden: a webhook or a live job names it.
    """

    def write() -> None:
        alias = alias_named(scoped(context), name, lock=True)
        check_alias_unused(alias)
        Alias.delete().where(Alias.id == alias.id).execute()

    transact(write)


def _check(context: Context, alias: Alias) -> None:
    """What an alias means is there, and is locked until the transaction's end."""
    check_target(context, alias.function_id, alias.function_version, None)
    if alias.routing_version is not None:
        if alias.routing_version == alias.function_version:
            message = f"version {alias.routing_version} is the alias's function_version; it must be another one."
            raise BadRequest(f"routing: {message}", errors={"routing": [message]})
        check_target(context, alias.function_id, alias.routing_version, None, version_field="routing")


def _taken(name: str) -> Conflict:
    return Conflict(f"name: Alias '{name}' exists already.", errors={"name": ["exists already"]})
