"""Which packages rows name. A version shares its function's package, so that the last row to name one decides."""

from __future__ import annotations

from qinling_falcon.models.database import reading
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
