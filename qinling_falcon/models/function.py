"""Functions: the database operations of the API."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qinling_falcon.errors import BadRequest, Conflict
from qinling_falcon.models import clock, deleted_functions, quotas
from qinling_falcon.models.database import reading, secret_keys, transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.package_keys import unused
from qinling_falcon.models.references import check_function_unused, check_no_live_jobs
from qinling_falcon.models.rows import change, check_owner, find
from qinling_falcon.models.runtime import not_available
from qinling_falcon.models.scope import Context, project_of, scoped, system
from qinling_falcon.models.states import Isolation, RuntimeStatus
from qinling_falcon.models.tables import Function, Runtime, Version
from qinling_falcon.models.trusts import doom, named

__all__ = [
    "CALLBACKS", "LISTS", "ROW_ONLY", "VOUCHED", "Function", "Updated", "create", "delete", "get", "refresh", "update",
]  # fmt: skip

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
        "isolation": Column(Function.isolation, Kind.TEXT),
        "concurrency": Column(Function.concurrency, Kind.INTEGER),
        "min_warm": Column(Function.min_warm, Kind.INTEGER),
        "max_attempts": Column(Function.max_attempts, Kind.INTEGER),
        "backoff_s": Column(Function.backoff_s, Kind.NUMBER),
        "max_age_s": Column(Function.max_age_s, Kind.INTEGER),
        "on_success": Column(Function.on_success, Kind.TEXT),
        "on_failure": Column(Function.on_failure, Kind.TEXT),
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
# Whoever changes one of these says what runs, and with whose rights.
VOUCHED = frozenset({"runtime_id", "code", "entry", "package_key"})
# What happens after asynchronous executions. No call depends on it.
CALLBACKS = frozenset({"on_success", "on_failure", "callback_secret"})
# These change the row only: nothing that runs, or is going to run, sees another function.
ROW_ONLY = frozenset({"name", "description", "timeout"}) | CALLBACKS
# Columns that can change while live jobs refer to the function.
_FREE_OF_JOBS = ROW_ONLY | {"concurrency", "min_warm", "max_attempts", "backoff_s", "max_age_s"}


@dataclass(frozen=True, slots=True)
class Updated:
    """The outcome of an update.

    Attributes:
        function: the row as it is now.
        reload: whether its workers hold something else now.
        unused: keys of packages that no row names any more, to be deleted.
    """

    function: Function
    reload: bool
    unused: set[str]


def create(
    context: Context,
    *,
    name: str | None,
    runtime_id: str | None,
    code: Mapping[str, Any],
    entry: str | None,
    cpu: int,
    memory_size: int,
    timeout: int,
    package_key: str | None,
    package_size: int | None = None,
    trust_id: str | None = None,
    source_etag: str | None = None,
    description: str | None = None,
    isolation: str | None = None,
    concurrency: int | None = None,
    min_warm: int = 0,
    max_attempts: int = 1,
    backoff_s: float = 1.0,
    max_age_s: int | None = None,
    on_success: str | None = None,
    on_failure: str | None = None,
    callback_secret: str | None = None,
    function_id: str | None = None,
    now: datetime.datetime | None = None,
) -> Function:
    """Create a function of the caller's project. Its runtime must be available.

    A function from an image has neither entry nor package, and may have no runtime. `callback_secret` is plain text,
    and is stored encrypted.

    Raises:
        BadRequest: `isolation` is less strict than the runtime's, or `min_warm` is greater than `concurrency`.
        NotFound: the runtime does not exist, or is neither the caller's nor public.
        Conflict: the runtime is not available.
        QuotaExceeded: the project has reached its quota of functions, of package bytes or of kept workers.
        NotSupported: the service has no keys to encrypt `callback_secret`.
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
        package_size=package_size,
        source_etag=source_etag,
        isolation=isolation,
        concurrency=concurrency,
        min_warm=min_warm,
        max_attempts=max_attempts,
        backoff_s=backoff_s,
        max_age_s=max_age_s,
        on_success=on_success,
        on_failure=on_failure,
        callback_secret=None if callback_secret is None else secret_keys().encrypt(callback_secret),
    )
    _check_min_warm(concurrency, min_warm)
    if trust_id is not None:
        function.trust_id = trust_id
    function.digest = _digest(function)

    def write() -> None:
        quotas.check(context.project_id, quotas.FUNCTIONS)
        if runtime_id is not None:
            _check_isolation(_check_runtime(context, runtime_id), isolation)
        with quotas.packages_checked(context.project_id), _kept_workers_checked(context, min_warm > 0):
            function.save(force_insert=True)
        named(trust_id)

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
    context: Context,
    function_id: str,
    changes: Mapping[str, Any],
    *,
    moved_from: Mapping[str, str] | None = None,
    now: datetime.datetime | None = None,
) -> Updated:
    """Change some columns of a function.

    Args:
        context: the caller.
        function_id: the function's id.
        changes: new values of some of the columns `name, description, timeout, runtime_id, code, entry, cpu,
            memory_size, package_key, package_size, trust_id, source_etag, isolation, concurrency, min_warm,
            max_attempts, backoff_s, max_age_s, on_success, on_failure, callback_secret`. The last one is plain text,
            and is stored encrypted.
        moved_from: the location of the object in Swift that `changes` are based on.
        now: the time of the change.

    Raises:
        BadRequest: the new isolation is less strict than the runtime's, or `min_warm` is greater than `concurrency`.
        NotFound: the function or the new runtime does not exist, or is not visible to the caller.
        Forbidden: the function belongs to another project; or a live job refers to it, and `changes` has other columns
            than those that change no target.
        Conflict: the new runtime is not available; or the function's location in Swift has changed meanwhile.
        QuotaExceeded: the new package is larger than the old one and exceeds the quota of package bytes; or the new
            `min_warm` exceeds the quota of kept workers.
        NotSupported: the service has no keys to encrypt `callback_secret`.
    """
    if changes.get("callback_secret") is not None:
        changes = {**changes, "callback_secret": secret_keys().encrypt(changes["callback_secret"])}

    def write() -> Updated:
        packages_checked = (
            quotas.packages_checked(context.project_id) if "package_key" in changes else contextlib.nullcontext()
        )
        with packages_checked, _kept_workers_checked(context, "min_warm" in changes):
            return write_checked()

    def write_checked() -> Updated:
        function = find(scoped(context, by_id=True).functions(), function_id, lock=True)
        check_owner(context, function, "change")
        if moved_from is not None and function.code.get("swift") != moved_from:
            raise Conflict(f"Function {function_id} was moved to another object in Swift meanwhile; try again.")
        if changes.keys() - _FREE_OF_JOBS:
            check_no_live_jobs(function)
        columns = dict(changes)
        if columns.get("runtime_id", function.runtime_id) != function.runtime_id:
            _check_isolation(_check_runtime(context, columns["runtime_id"]), columns.get("isolation"))
        elif columns.get("isolation") is not None:
            _check_isolation(_locked_runtime(context, function.runtime_id or ""), columns["isolation"])
        old_key, old_digest, old_trust = function.package_key, function.digest, function.trust_id
        for name in (*_LOADED, "trust_id", "isolation", "concurrency", "min_warm"):
            if name in columns:
                setattr(function, name, columns[name])
        _check_min_warm(function.concurrency, function.min_warm)
        columns |= {"digest": _digest(function), "updated_at": now or clock.now()}
        change(function, columns)
        named(columns.get("trust_id"))
        doom({old_trust})
        replaced = {old_key} - {function.package_key}
        return Updated(function, function.digest != old_digest or bool(replaced), unused(replaced))

    return transact(write)


def refresh(
    context: Context,
    function_id: str,
    where: Mapping[str, str],
    etag: str | None,
    *,
    md5sum: str,
    package_key: str,
    package_size: int,
    source_etag: str,
) -> set[str]:
    """Replace a function's outdated copy of its object in Swift, unless the copy has already been replaced.

    This is not a change by a user, so `updated_at` stays, and it is allowed while jobs refer to the function.

    Args:
        context: a context of the function's project.
        function_id: the function's id.
        where: the location of the object when the copy was found outdated.
        etag: the etag of the outdated copy.
        md5sum: the md5 of the new copy.
        package_key: the package key of the new copy.
        package_size: the size of the new copy in bytes.
        source_etag: the etag of the new copy.

    Returns:
        Keys of packages that no row names any more and that the caller deletes: the old copy, or the new copy if it
        was not used.

    Raises:
        NotFound: the function was deleted meanwhile.
        QuotaExceeded: the new copy is larger than the old one and exceeds the quota of package bytes.
    """

    def write() -> set[str]:
        with quotas.packages_checked(context.project_id):
            return write_checked()

    def write_checked() -> set[str]:
        function = find(scoped(context).functions(), function_id, lock=True)
        old = function.package_key
        if (function.code.get("swift"), function.source_etag) != (where, etag):
            return unused({package_key})
        function.code = function.code | {"md5sum": md5sum}
        columns = {
            "code": function.code,
            "package_key": package_key,
            "package_size": package_size,
            "source_etag": source_etag,
            "digest": _digest(function),
        }
        change(function, columns)
        return unused({old})

    return transact(write)


def ids_of(project_id: str) -> list[str]:
    """The ids of a project's functions."""
    with reading():
        return [row.id for row in scoped(Context(project_id)).functions().select(Function.id)]


def ids_in_runtime(runtime_id: str) -> list[str]:
    """The ids of the functions of all projects that run in a runtime, or that have a version that does."""
    using = system("a change of a runtime concerns the functions of all projects")
    with reading():
        functions = using.functions().select(Function.id).where(Function.runtime_id == runtime_id)
        versions = using.versions().select(Version.function_id).where(Version.runtime_id == runtime_id)
        return sorted({row.id for row in functions} | {row.function_id for row in versions})


def delete(context: Context, function_id: str) -> set[str]:
    """Delete a function of the caller's project with its versions; its executions stay.

    Those that are queued are cancelled later (see `deleted_functions`).

    Returns:
        Keys of packages that no row names any more, to be deleted.

    Raises:
        NotFound: unknown, or not the caller's.
        Forbidden: it is another project's, and the caller an admin; or an alias, a webhook or a live job names it.
    """

    def write() -> set[str]:
        function = find(scoped(context, by_id=True).functions(), function_id, lock=True)
        check_owner(context, function, "delete")
        check_function_unused(function)
        versions = project_of(function).versions().where(Version.function_id == function_id)
        keys = {function.package_key, *(version.package_key for version in versions)}
        trusts = {function.trust_id, *(version.trust_id for version in versions)}
        Version.delete().where(Version.function_id == function_id).execute()
        Function.delete().where(Function.id == function_id).execute()
        deleted_functions.note(function)
        doom(trusts)
        return unused(keys)

    return transact(write)


def _check_runtime(context: Context, runtime_id: str) -> Runtime:
    """Lock the runtime in the transaction that refers to it, and check that it is available."""
    runtime = _locked_runtime(context, runtime_id)
    if runtime.status != RuntimeStatus.AVAILABLE:
        raise not_available(runtime, "runtime_id")
    return runtime


def _locked_runtime(context: Context, runtime_id: str) -> Runtime:
    """Lock and return the runtime. The lock blocks `runtime.delete` and `runtime.update`."""
    return find(scoped(context).runtimes(), runtime_id, lock=True, field="runtime_id")


def _check_isolation(runtime: Runtime, isolation: str | None) -> None:
    if isolation == Isolation.WARM and runtime.isolation == Isolation.PER_CALL:
        message = f"Runtime {runtime.id} has isolation per_call; a function in it can't have warm."
        raise BadRequest(f"isolation: {message}", errors={"isolation": [message]})


def _kept_workers_checked(context: Context, changes: bool) -> contextlib.AbstractContextManager[None]:
    return quotas.kept_workers_checked(context.project_id) if changes else contextlib.nullcontext()


def _check_min_warm(concurrency: int | None, min_warm: int) -> None:
    if concurrency is not None and min_warm > concurrency:
        message = f"must not be greater than the function's concurrency, which is {concurrency}."
        raise BadRequest(f"min_warm: {message}", errors={"min_warm": [message]})


def _digest(function: Function) -> str:
    """A name for what a worker loads: another package, entry, limit or runtime gives another name.

    Another trust gives another name, because a function may keep a session in its worker's memory. So does `per_call`.
    """
    loaded = [getattr(function, name) for name in _LOADED]
    if function.trust_id is not None:
        loaded.append(function.trust_id)
    if function.isolation == Isolation.PER_CALL:
        loaded.append({"isolation": function.isolation})
    return hashlib.sha256(json.dumps(loaded, sort_keys=True).encode()).hexdigest()
