"""What names functions, versions and aliases, and so keeps them from going.

The row of a function is the lock for all that names it or one of its versions, the row of an alias for all that
names it: whoever makes such a name, or takes away what could be named, locks that row first. An alias is locked
before its function.
"""

from __future__ import annotations

from typing import Any

import peewee

from qinling_falcon.errors import Forbidden
from qinling_falcon.models.rows import find, find_one
from qinling_falcon.models.scope import Context, Scope, project_of, scoped
from qinling_falcon.models.states import JobStatus
from qinling_falcon.models.tables import Alias, Function, Job, Version, Webhook

_LIVE = (JobStatus.RUNNING.value, JobStatus.PAUSED.value)


def version_of(scope: Scope, function_id: str, number: int, *, lock: bool = False, field: str | None = None) -> Version:
    """A function's version by its number.

    Raises:
        NotFound: there is none.
    """
    query = scope.versions().where((Version.function_id == function_id) & (Version.version_number == number))
    return find_one(query, f"Version {number} of function {function_id}", lock=lock, field=field)


def alias_named(scope: Scope, name: str, *, lock: bool = False, field: str | None = None) -> Alias:
    """An alias by its name, of a scope of one project.

    Raises:
        NotFound: there is none.
    """
    return find_one(scope.aliases().where(Alias.name == name), f"Alias '{name}'", lock=lock, field=field)


def target_columns(function_id: str | None, version: int | None, alias: str | None) -> dict[str, Any]:
    """The columns of a row that names a target: an alias alone, or a function and a version of it (0 unless given)."""
    if alias is not None:
        return {"function_id": None, "function_version": None, "function_alias": alias}
    return {"function_id": function_id, "function_version": version or 0, "function_alias": None}


def check_target(
    context: Context, function_id: str | None, version: int | None, alias: str | None, *, version_field: str = ""
) -> None:
    """Make sure, in the transaction that writes these names, that what they name is there, and keep it there.

    Args:
        context: the caller; only what is its own project's can be named, also by an admin.
        function_id: the function, in the request's field of that name; None: `alias` names what is meant.
        version: of the function; 0 or None is the function itself.
        alias: in the request's field `function_alias`.
        version_field: the request's field of the version, if it has another name than `function_version`.

    Raises:
        NotFound: the message says which field.
    """
    scope = scoped(context)
    if function_id is None:
        assert alias is not None
        alias_named(scope, alias, lock=True, field="function_alias")
        return
    find(scope.functions(), function_id, lock=True, field="function_id")
    if version:
        version_of(scope, function_id, version, field=version_field or "function_version")


def check_function_unused(function: Function) -> None:
    """Raise `Forbidden` when an alias, a webhook or a live job names the locked function or a version of it."""
    _refuse(f"Function {function.id}", _naming(function))


def check_version_unused(version: Version) -> None:
    """Raise `Forbidden` when an alias, a webhook or a live job names the version, whose function is locked."""
    what = f"Version {version.version_number} of function {version.function_id}"
    _refuse(what, _naming(version, version.version_number))


def check_alias_unused(alias: Alias) -> None:
    """Raise `Forbidden` when a webhook or a live job names the locked alias."""
    scope = project_of(alias)
    webhooks = scope.webhooks().where(Webhook.function_alias == alias.name)
    jobs = scope.jobs().where((Job.function_alias == alias.name) & Job.status.in_(_LIVE))
    _refuse(f"Alias '{alias.name}'", [webhooks, jobs])


def check_no_live_jobs(function: Function) -> None:
    """Raise `Forbidden` when a live job names the locked function or a version of it."""
    *_, jobs = _naming(function)
    _refuse(f"Function {function.id}", [jobs])


def _naming(function: Function | Version, number: int | None = None) -> list[peewee.ModelSelect[Any]]:
    """Aliases, webhooks and live jobs, all of the function's own project, that name it, or one version of it."""
    scope = project_of(function)
    function_id = function.id if isinstance(function, Function) else function.function_id
    aliases = scope.aliases().where(Alias.function_id == function_id)
    webhooks = scope.webhooks().where(Webhook.function_id == function_id)
    jobs = scope.jobs().where((Job.function_id == function_id) & Job.status.in_(_LIVE))
    if number is not None:
        aliases = aliases.where((Alias.function_version == number) | (Alias.routing_version == number))
        webhooks = webhooks.where(Webhook.function_version == number)
        jobs = jobs.where(Job.function_version == number)
    return [aliases, webhooks, jobs]


def _refuse(what: str, users: list[peewee.ModelSelect[Any]]) -> None:
    for select in users:
        user = select.first()
        if user is not None:
            name = f"'{user.name}'" if isinstance(user, Alias) else user.id
            raise Forbidden(f"{what} is still in use by {type(user).__name__.lower()} {name}.")
