"""Webhooks: URLs that run a function."""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Mapping
from typing import Any

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import clock, quotas
from qinling_falcon.models.database import transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.references import check_target, target_columns
from qinling_falcon.models.rows import change, check_owner, find
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.models.tables import Webhook

__all__ = ["LISTS", "Webhook", "create", "delete", "get", "update"]

LISTS = ListSpec(
    Webhook,
    filters={
        "id": Column(Webhook.id, Kind.TEXT),
        "function_id": Column(Webhook.function_id, Kind.TEXT),
        "function_version": Column(Webhook.function_version, Kind.INTEGER),
        "function_alias": Column(Webhook.function_alias, Kind.TEXT),
        "description": Column(Webhook.description, Kind.TEXT),
        "project_id": Column(Webhook.project_id, Kind.TEXT),
        "created_at": Column(Webhook.created_at, Kind.TIME),
        "updated_at": Column(Webhook.updated_at, Kind.TIME),
    },
    sort_keys={
        "created_at": Webhook.created_at,
        "updated_at": Webhook.updated_at,
    },
)

_TARGET = frozenset({"function_id", "function_version", "function_alias"})


def create(
    context: Context,
    *,
    function_id: str | None = None,
    function_version: int | None = None,
    function_alias: str | None = None,
    description: str | None = None,
    now: datetime.datetime | None = None,
) -> Webhook:
    """Create a webhook of a function, a version or an alias of the caller's project.

    Args:
        context: the caller.
        function_id: the function; required without an alias.
        function_version: the version of the function; None or 0: the function itself.
        function_alias: an alias; it takes precedence over `function_id` and `function_version`.
        description: the description of the webhook.
        now: the time of creation.

    Raises:
        NotFound: the function, the version or the alias does not exist.
        QuotaExceeded: the project has reached its quota of webhooks.
    """
    webhook = Webhook(
        id=str(uuid.uuid4()),
        project_id=context.project_id,
        created_at=now or clock.now(),
        description=description,
        **target_columns(function_id, function_version, function_alias),
    )

    def write() -> None:
        quotas.check(context.project_id, quotas.WEBHOOKS)
        check_target(context, webhook.function_id, webhook.function_version, webhook.function_alias)
        webhook.save(force_insert=True)

    transact(write)
    return webhook


def get(context: Context, webhook_id: str) -> Webhook:
    """A webhook that the caller may see.

    Raises:
        NotFound: unknown, or not the caller's.
    """
    return find(scoped(context, by_id=True).webhooks(), webhook_id)


def update(
    context: Context, webhook_id: str, changes: Mapping[str, Any], *, now: datetime.datetime | None = None
) -> Webhook:
    """Change what a webhook runs.

    An alias takes the place of the function and its version. A function or a version takes the place of the
    alias; another function without a version means that function's version 0.

    Args:
        context: the caller.
        webhook_id: its id.
        changes: among `function_id, function_version, function_alias, description`; none of them None.
        now: the time of the change.

    Raises:
        NotFound: the webhook, or what it would run, is unknown or not the caller's.
        Forbidden: it is another project's, and the caller an admin.
        BadRequest: a version alone, of a webhook that has no function.
    """

    def write() -> Webhook:
        webhook = find(scoped(context, by_id=True).webhooks(), webhook_id, lock=True)
        check_owner(context, webhook, "change")
        columns = dict(changes)
        if changes.keys() & _TARGET:
            columns |= _target(webhook, changes)
            check_target(context, columns["function_id"], columns["function_version"], columns["function_alias"])
        columns["updated_at"] = now or clock.now()
        return change(webhook, columns)

    return transact(write)


def delete(context: Context, webhook_id: str) -> None:
    """Delete a webhook.

    Raises:
        NotFound: as `get`.
        Forbidden: it is another project's, and the caller an admin.
    """

    def write() -> None:
        webhook = find(scoped(context, by_id=True).webhooks(), webhook_id, lock=True)
        check_owner(context, webhook, "delete")
        Webhook.delete().where(Webhook.id == webhook_id).execute()

    transact(write)


def _target(webhook: Webhook, changes: Mapping[str, Any]) -> dict[str, Any]:
    function_id = changes.get("function_id", webhook.function_id)
    alias = changes.get("function_alias")
    if alias is None and function_id is None:
        message = f"required with function_version: webhook {webhook.id} names an alias, and no function."
        raise BadRequest(f"function_id: {message}", errors={"function_id": [message]})
    kept = webhook.function_version if function_id == webhook.function_id else 0
    return target_columns(function_id, changes.get("function_version", kept), alias)
