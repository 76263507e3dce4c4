"""The functions and versions for which workers are kept (`min_warm`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import peewee

from qinling_falcon.models.database import reading
from qinling_falcon.models.scope import system
from qinling_falcon.models.tables import Function, Version

R = TypeVar("R", Function, Version)

_PAGE = 200
# A literal, because SQLite uses the partial index for nothing else.
_NONE = peewee.SQL("0")


@dataclass(frozen=True, slots=True)
class Kept:
    """A function (version 0) or version, and how many workers are kept for it."""

    project_id: str
    function_id: str
    version: int
    runtime_id: str
    digest: str
    isolation: str | None
    count: int


def all_kept() -> Iterator[Kept]:
    """All of them, read in pages.

    Raises:
        Unavailable: the database is away.
    """
    scope = system("the pool manager keeps workers for all projects")
    for function in _pages(Function, scope.functions):
        yield Kept(
            function.project_id, function.id, 0, function.runtime_id or "", function.digest, function.isolation,
            function.min_warm,
        )  # fmt: skip
    for version in _pages(Version, scope.versions):
        yield Kept(
            version.project_id, version.function_id, version.version_number, version.runtime_id, version.digest,
            version.isolation, version.min_warm,
        )  # fmt: skip


def _pages(table: type[R], select: Callable[[], peewee.ModelSelect[R]]) -> Iterator[R]:
    after = ""
    while True:
        with reading():
            page = list(
                select().where(table.min_warm > _NONE, table.id > after).order_by(table.id).limit(_PAGE)
            )
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].id
