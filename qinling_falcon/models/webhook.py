"""Webhooks: URLs that run a function."""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import peewee

from qinling_falcon.errors import BadRequest
from qinling_falcon.models import clock, quotas
from qinling_falcon.models.database import reading, secret_keys, transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.references import check_target, target_columns
from qinling_falcon.models.rows import change, check_owner, find
from qinling_falcon.models.scope import Context, scoped, system
from qinling_falcon.models.tables import Webhook

__all__ = [
    "LISTS", "LONGEST_TOLERANCE_S", "UNSIGNED", "Webhook", "cache_key", "create", "delete", "exists", "get",
    "read_for_call", "secrets_of", "update",
]  # fmt: skip

LISTS = ListSpec(
    Webhook,
    filters={
        "id": Column(Webhook.id, Kind.TEXT),
        "function_id": Column(Webhook.function_id, Kind.TEXT),
        "function_version": Column(Webhook.function_version, Kind.INTEGER),
        "function_alias": Column(Webhook.function_alias, Kind.TEXT),
        "description": Column(Webhook.description, Kind.TEXT),
        "subpaths": Column(Webhook.subpaths, Kind.BOOLEAN),
        "pass_request": Column(Webhook.pass_request, Kind.BOOLEAN),
        "sync": Column(Webhook.sync, Kind.BOOLEAN),
        "enabled": Column(Webhook.enabled, Kind.BOOLEAN),
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
UNSIGNED = "none"
"""The scheme that removes a signature."""
_SIGNATURE = ("signature_scheme", "signature_tolerance_s", "signature_secrets")
LONGEST_TOLERANCE_S = 24 * 3600
"""The longest time that a signed timestamp may be before or after the present."""
_DEFAULT_TOLERANCE_S = 300


def create(
    context: Context,
    *,
    function_id: str | None = None,
    function_version: int | None = None,
    function_alias: str | None = None,
    description: str | None = None,
    methods: Sequence[str] = ("POST",),
    subpaths: bool = False,
    pass_request: bool = False,
    sync: bool = False,
    enabled: bool = True,
    cors: Sequence[str] | None = None,
    signature: Mapping[str, Any] | None = None,
    rate_limit: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> Webhook:
    """Create a webhook of a function, a version or an alias of the caller's project.

    Args:
        context: the caller.
        function_id: the function; required without an alias.
        function_version: the version of the function; None or 0: the function itself.
        function_alias: an alias; it takes precedence over `function_id` and `function_version`.
        description: the description of the webhook.
        methods: the HTTP methods that it takes; `*` is any.
        subpaths: whether it takes paths below its URL.
        pass_request: whether the function gets the whole request.
        sync: whether senders wait for the function's answer.
        enabled: whether it takes deliveries.
        cors: the origins whose pages may call it; None: none.
        signature: `scheme`, `secrets` and `tolerance_s` (300 s if it is absent); None: deliveries are not signed.
        rate_limit: `per_minute`, and `burst` (as many if it is absent); None: no limit.
        now: the time of creation.

    Raises:
        BadRequest: a signature without secrets.
        NotSupported: the service has no keys to encrypt the secrets.
        NotFound: the function, the version or the alias does not exist.
        QuotaExceeded: the project has reached its quota of webhooks.
    """
    webhook = Webhook(
        id=str(uuid.uuid4()),
        project_id=context.project_id,
        created_at=now or clock.now(),
        description=description,
        methods=list(methods),
        subpaths=subpaths,
        pass_request=pass_request,
        sync=sync,
        enabled=enabled,
        cors=cors and list(cors),
        **target_columns(function_id, function_version, function_alias),
        **_signature(None, signature or {"scheme": UNSIGNED}),
        **_rate(rate_limit or {"per_minute": None}),
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
    """Change a webhook: what it runs, what it accepts, and how it answers.

    An alias takes the place of the function and its version. A function or a version takes the place of the
    alias; another function without a version means that function's version 0.

    Args:
        context: the caller.
        webhook_id: its id.
        changes: among the arguments of `create`; none of them None, except `cors`. A `signature` of the same scheme
            keeps the secrets and the tolerance that it leaves out; one with the scheme `UNSIGNED` removes it. A
            `rate_limit` whose `per_minute` is None removes it.
        now: the time of the change.

    Raises:
        NotFound: the webhook, or what it would run, is unknown or not the caller's.
        Forbidden: it is another project's, and the caller an admin.
        BadRequest: a version alone, of a webhook that has no function; or a signature of another scheme without
            secrets.
        NotSupported: the service has no keys to encrypt the secrets.
    """

    def write() -> Webhook:
        webhook = find(scoped(context, by_id=True).webhooks(), webhook_id, lock=True)
        check_owner(context, webhook, "change")
        columns = dict(changes)
        if (signature := columns.pop("signature", None)) is not None:
            columns |= _signature(webhook, signature)
        if (rate_limit := columns.pop("rate_limit", None)) is not None:
            columns |= _rate(rate_limit)
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


def exists(webhook_id: str) -> bool:
    """Whether there is a webhook with this id, of any project.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        return bool(_of_any_project().where(Webhook.id == webhook_id).exists())


def read_for_call(webhook_id: str) -> Webhook | None:
    """A webhook of any project, for a request that has only its URL; None: there is none.

    Raises:
        Unavailable: see `reading`.
    """
    with reading():
        row: Webhook | None = _of_any_project().where(Webhook.id == webhook_id).first()
    return row


def secrets_of(webhook: Webhook) -> tuple[str, ...]:
    """The secrets of a webhook's signature, decrypted.

    Raises:
        SecretUnreadable: no key of `SECRET_KEYS` decrypts them.
    """
    if webhook.signature_secrets is None:
        return ()
    return tuple(json.loads(secret_keys().decrypt(webhook.signature_secrets)))


def cache_key(webhook_id: str) -> str:
    """The cache key of a webhook. Surround its changes with `Pool.changing`."""
    return f"webhook:{webhook_id}"


def _of_any_project() -> peewee.ModelSelect[Webhook]:
    return system("a delivery has the webhook's URL, and no caller").webhooks()


def _signature(webhook: Webhook | None, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a webhook's signature.

    Args:
        webhook: the webhook that is changed; None: it is new.
        wanted: see `create` and `update`.
    """
    scheme, secrets, tolerance_s = (wanted.get(name) for name in ("scheme", "secrets", "tolerance_s"))
    if scheme == UNSIGNED:
        return dict.fromkeys(_SIGNATURE) | {"signature_secret_count": 0}
    kept = webhook if webhook is not None and webhook.signature_scheme == scheme else None
    if tolerance_s is None:
        tolerance_s = _DEFAULT_TOLERANCE_S if kept is None else kept.signature_tolerance_s
    columns = {"signature_scheme": scheme, "signature_tolerance_s": tolerance_s}
    if secrets is not None:
        encrypted = secret_keys().encrypt(json.dumps(list(secrets)))
        return columns | {"signature_secrets": encrypted, "signature_secret_count": len(secrets)}
    if kept is None:
        message = f"secrets are required for a new signature of the scheme {scheme}."
        raise BadRequest(f"signature: {message}", errors={"signature": [message]})
    return columns


def _rate(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a webhook's rate limit. Without a `burst`, all deliveries of a minute may come at once."""
    per_minute = wanted["per_minute"]
    return {"rate_per_minute": per_minute, "rate_burst": per_minute and (wanted.get("burst") or per_minute)}


def _target(webhook: Webhook, changes: Mapping[str, Any]) -> dict[str, Any]:
    function_id = changes.get("function_id", webhook.function_id)
    alias = changes.get("function_alias")
    if alias is None and function_id is None:
        message = f"required with function_version: webhook {webhook.id} names an alias, and no function."
        raise BadRequest(f"function_id: {message}", errors={"function_id": [message]})
    kept = webhook.function_version if function_id == webhook.function_id else 0
    return target_columns(function_id, changes.get("function_version", kept), alias)
