"""The packages that rows refer to. Functions and versions can share a package; it is kept until no row refers to it."""

from __future__ import annotations

import functools
from collections.abc import Callable

from qinling_falcon.models.database import reading, transact
from qinling_falcon.models.scope import system
from qinling_falcon.models.tables import Function, Version


def in_use() -> set[str]:
    """Keys of all packages that a row names, for the sweep of those that none names."""
    scope = system("packages of all projects lie in one store")
    with reading():
        functions = scope.functions().select(Function.package_key).where(Function.package_key.is_null(False)).distinct()
        versions = scope.versions().select(Version.package_key).distinct()
        return {row.package_key for rows in (functions, versions) for row in rows if row.package_key is not None}


def unused(keys: set[str | None]) -> set[str]:
    """Those of `keys` that no row names; in the transaction that took a row's name away, with its function locked."""
    scope = system("a package belongs to the project of the rows that name it")
    return {
        key
        for key in keys
        if key is not None
        and not scope.functions().where(Function.package_key == key).exists()
        and not scope.versions().where(Version.package_key == key).exists()
    }


def fill_sizes(size_of: Callable[[str], int | None]) -> list[str]:
    """Set `package_size` in rows that are older than this column, so that quotas count their packages.

    Args:
        size_of: returns the bytes of the package with a key; None: the storage (on this machine) has no such package.

    Returns:
        The keys whose sizes were written.

    Raises:
        Unavailable: the database is away; call this again later.
        Exception: see `size_of`.
    """
    scope = system("packages of all projects lie in one store")
    with reading():
        functions = scope.functions().where(Function.package_key.is_null(False) & Function.package_size.is_null())
        versions = scope.versions().where(Version.package_size.is_null())
        keys = {str(row.package_key) for rows in (functions, versions) for row in rows}
    filled = []
    for key in sorted(keys):
        size = size_of(key)
        if size is not None:
            transact(functools.partial(_write_size, key, size))
            filled.append(key)
    return filled


def _write_size(key: str, size: int) -> None:
    # Functions and versions are updated together, because a shared package counts once only if its rows have one size.
    Function.update(package_size=size).where(Function.package_key == key).execute()
    Version.update(package_size=size).where(Version.package_key == key).execute()
