"""Versions: numbered, immutable snapshots of a function."""

from __future__ import annotations

import contextlib
import datetime
import uuid

import peewee

from qinling_falcon.errors import Forbidden
from qinling_falcon.models import clock, quotas
from qinling_falcon.models.database import transact
from qinling_falcon.models.filters import Kind
from qinling_falcon.models.listing import Column, ListSpec
from qinling_falcon.models.package_keys import unused
from qinling_falcon.models.references import check_version_unused, version_of
from qinling_falcon.models.rows import change, check_owner, find
from qinling_falcon.models.scope import Context, project_of, scoped
from qinling_falcon.models.tables import Version
from qinling_falcon.models.trusts import doom

__all__ = ["LISTS", "Version", "create", "delete", "get", "of"]

LISTS = ListSpec(
    Version,
    filters={
        "id": Column(Version.id, Kind.TEXT),
        "function_id": Column(Version.function_id, Kind.TEXT),
        "version_number": Column(Version.version_number, Kind.INTEGER),
        "description": Column(Version.description, Kind.TEXT),
        "count": Column(Version.count, Kind.INTEGER),
        "project_id": Column(Version.project_id, Kind.TEXT),
        "created_at": Column(Version.created_at, Kind.TIME),
        "updated_at": Column(Version.updated_at, Kind.TIME),
    },
    # A function has few of them, all found by its id.
    sort_keys={
        "created_at": Version.created_at,
        "updated_at": Version.updated_at,
        "version_number": Version.version_number,
    },
)

# What a version fixes; it is made when one of these is another than in the latest version.
_FIXED = (
    "runtime_id", "code", "entry", "cpu", "memory_size", "timeout", "digest", "package_key", "package_size", "trust_id",
    "isolation", "concurrency", "min_warm",
)  # fmt: skip
# The digest stands for all others of these.
_COMPARED = ("digest", "timeout", "concurrency", "min_warm")


def create(
    context: Context,
    function_id: str,
    *,
    description: str | None = None,
    most: int,
    now: datetime.datetime | None = None,
) -> Version:
    """Create a snapshot of a function of the caller's project, with the next version number.

    Args:
        context: the caller.
        function_id: a function from a package.
        description: the description of the version.
        most: the most versions of a function.
        now: the time of creation.

    Raises:
        NotFound: the function does not exist, or is not visible to the caller.
        Forbidden: the function belongs to another project, has no package, has not changed since its latest version,
            or has `most` versions.
        QuotaExceeded: the project has reached its quota of versions, or the version's `min_warm` exceeds the quota of
            kept workers.
    """

    def write() -> Version:
        quotas.check(context.project_id, quotas.VERSIONS)
        function = find(scoped(context, by_id=True).functions(), function_id, lock=True)
        check_owner(context, function, "make versions of")
        if function.code["source"] != "package":
            raise Forbidden(f"Function {function_id} has no package: only functions with one have versions.")
        versions = project_of(function).versions().where(Version.function_id == function_id)
        latest = versions.where(Version.version_number == function.latest_version).get_or_none()
        if latest and all(getattr(latest, name) == getattr(function, name) for name in _COMPARED):
            same = f"Function {function_id} has not changed since its version {latest.version_number}"
            raise Forbidden(f"{same}: a version needs another package, entry, limit or runtime.")
        if versions.count() >= most:
            raise Forbidden(f"Function {function_id} has {most} versions already, which is the limit.")
        version = Version(
            id=str(uuid.uuid4()),
            project_id=function.project_id,
            created_at=now or clock.now(),
            function_id=function_id,
            version_number=function.latest_version + 1,
            description=description,
            **{name: getattr(function, name) for name in _FIXED},
        )
        kept = quotas.kept_workers_checked(context.project_id) if version.min_warm else contextlib.nullcontext()
        with kept:
            version.save(force_insert=True)
        change(function, {"latest_version": version.version_number})
        return version

    return transact(write)


def of(context: Context, function_id: str) -> peewee.ModelSelect[Version]:
    """The versions of a function, for `listing.page`, as far as the caller may see them."""
    return scoped(context, by_id=True).versions().where(Version.function_id == function_id)


def get(context: Context, function_id: str, number: int) -> Version:
    """A version that the caller may see.

    Raises:
        NotFound: the function or the version is unknown, or not the caller's.
    """
    return version_of(scoped(context, by_id=True), function_id, number)


def delete(context: Context, function_id: str, number: int) -> set[str]:
    """Delete a version of a function of the caller's project; its number is not used again, its executions stay.

    Returns:
        Keys of packages that no row names any more, to be deleted.

    Raises:
        NotFound: as `get`.
        Forbidden: it is another project's, and the caller an admin; or an alias, a webhook or a live job names it.
    """

    def write() -> set[str]:
        scope = scoped(context, by_id=True)
        find(scope.functions(), function_id, lock=True)
        version = version_of(scope, function_id, number)
        check_owner(context, version, "delete")
        check_version_unused(version)
        Version.delete().where(Version.id == version.id).execute()
        doom({version.trust_id})
        return unused({version.package_key})

    return transact(write)
