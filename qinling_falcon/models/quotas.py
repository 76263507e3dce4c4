"""Quotas: the limits of each project for rows of each kind, for package bytes and for workers that are kept.

An admin can set a limit for a project (`project_quotas`); else the setting `QUOTA_…` applies. The use is never stored:
it is counted from the rows, so a crash can't make it wrong. `check`, `packages_checked` and `kept_workers_checked` run
in the transaction that writes the new row. They lock the project's row in `project_quotas` first, so two processes that
write at the same time count one after the other. SQLite has one writer at a time and needs no lock.

Executions are different. Their quota is checked before a call runs, without a statement
(`invocation/execution_quota.py`). The record of a call that has run is never refused.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import peewee

from qinling_falcon.errors import QuotaExceeded
from qinling_falcon.models.cooperation import pause
from qinling_falcon.models.database import default_quotas, engine, reading, transact
from qinling_falcon.models.internal_tables import ProjectQuota
from qinling_falcon.models.scope import Context, Scope, scoped
from qinling_falcon.models.states import ExecutionStatus
from qinling_falcon.models.tables import Execution, Function, Version
from qinling_falcon.settings import QUOTAS

UNLIMITED = -1

FUNCTIONS, PACKAGE_BYTES, VERSIONS, ALIASES, WEBHOOKS, JOBS, EXECUTIONS, KEPT_WORKERS = QUOTAS

# Kinds that are no count of rows that is asked for.
_MEASURED = (PACKAGE_BYTES, EXECUTIONS, KEPT_WORKERS)

# Index entries that one query counts. This takes SQLite a millisecond, during which no other greenlet runs.
_STEP = 5_000


@dataclass(frozen=True, slots=True)
class Quota:
    """The limit (-1: none) and the use of one kind in one project."""

    limit: int
    used: int


def check(project_id: str, kind: str) -> None:
    """Check, in the transaction that writes the row, that the project may have one more row of `kind`.

    Raises:
        QuotaExceeded: the project has reached its limit.
    """
    limit = _locked_limits(project_id)[kind]
    if limit == UNLIMITED:
        return
    used = _rows(scoped(Context(project_id)), kind).count()
    if used >= limit:
        raise QuotaExceeded(kind, limit, used)


@contextlib.contextmanager
def packages_checked(project_id: str) -> Iterator[None]:
    """A context manager for changes of rows that refer to packages; used inside the transaction.

    A change that frees bytes is always allowed, even above the limit.

    Raises:
        QuotaExceeded: the change adds package bytes, and the project's packages exceed the limit.
    """
    with _checked(project_id, PACKAGE_BYTES, _package_bytes):
        yield


@contextlib.contextmanager
def kept_workers_checked(project_id: str) -> Iterator[None]:
    """A context manager for changes of `min_warm`; used inside the transaction. Lowering it is always allowed.

    Raises:
        QuotaExceeded: the change raises the sum of the project, and the sum exceeds the limit.
    """
    with _checked(project_id, KEPT_WORKERS, _kept_workers):
        yield


def of_project(project_id: str, count_executions: Callable[[str], int] | None = None) -> dict[str, Quota]:
    """The limits and use of a project, by kind.

    Args:
        project_id: the project.
        count_executions: a replacement for `executions_kept`.
    """
    limits = limits_of(project_id)
    scope = scoped(Context(project_id))
    with reading():
        used = {kind: _rows(scope, kind).count() for kind in QUOTAS if kind not in _MEASURED}
        used[PACKAGE_BYTES] = _package_bytes(scope)
        used[KEPT_WORKERS] = _kept_workers(scope)
    used[EXECUTIONS] = (count_executions or executions_kept)(project_id)
    return {kind: Quota(limits[kind], used[kind]) for kind in QUOTAS}


def limits_of(project_id: str) -> dict[str, int]:
    """The limits of a project, by kind."""
    with reading():
        row = ProjectQuota.select().where(ProjectQuota.project_id == project_id).get_or_none()
    return _with_defaults(row)


def limits_of_all(project_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """The limits of some hundreds of projects, each by kind, in one statement."""
    with reading():
        rows = {row.project_id: row for row in ProjectQuota.select().where(ProjectQuota.project_id.in_(project_ids))}
    return {project_id: _with_defaults(rows.get(project_id)) for project_id in project_ids}


def change(project_id: str, limits: Mapping[str, int]) -> None:
    """Set some limits of the project; its other limits stay."""

    def write() -> None:
        row = _locked_row(project_id) or ProjectQuota(project_id=project_id)
        merged = {**row.limits, **limits}
        ProjectQuota.insert(project_id=project_id, limits=merged).on_conflict_ignore().execute()
        ProjectQuota.update(limits=merged).where(ProjectQuota.project_id == project_id).execute()

    transact(write)


def executions_kept(project_id: str, at_most: float = math.inf) -> int:
    """Count the project's executions, including running ones that already have a row.

    A project may have millions of executions, so other greenlets run after every few thousand.

    Args:
        project_id: the project.
        at_most: the count may stop at this number; there may then be more.
    """
    executions = scoped(Context(project_id)).executions().select(Execution.created_at, Execution.id)
    counted = 0
    for status in ExecutionStatus:
        if counted < at_most:
            counted += _count(executions.where(Execution.status == status.value), at_most - counted)
    return counted


def _count(select: peewee.ModelSelect[Execution], at_most: float) -> int:
    """Count executions of one status in the order of their index; `at_most` as for `executions_kept`."""
    select = select.order_by(Execution.created_at, Execution.id)
    counted = 0
    rest = select
    while counted < at_most:
        with reading():
            last = rest.offset(_STEP - 1).first()  # `get` would begin at the first row
            if last is None:
                return counted + int(rest.count())
        counted += _STEP
        rest = select.where(_newer(last))
        pause()
    return counted


def _newer(than: Execution) -> peewee.Expression:
    """Whether an execution comes after `than` in the order of creation."""
    created_at = peewee.Value(than.created_at, converter=Execution.created_at.db_value)
    after: peewee.Expression = peewee.Tuple(Execution.created_at, Execution.id) > peewee.Tuple(created_at, than.id)
    return after


def _rows(scope: Scope, kind: str) -> peewee.ModelSelect[Any]:
    select: peewee.ModelSelect[Any] = getattr(scope, kind)()
    return select


def _package_bytes(scope: Scope) -> int:
    """Bytes of the packages of the project's functions and versions; a shared package counts once."""
    functions = scope.functions().where(Function.package_key.is_null(False))
    packages = functions.select(Function.package_key, Function.package_size) | scope.versions().select(
        Version.package_key, Version.package_size
    )
    sizes = packages.alias("packages")
    return int(sizes.select_from(peewee.fn.SUM(sizes.c.package_size)).scalar() or 0)


def _kept_workers(scope: Scope) -> int:
    """The sum of `min_warm` of the project's functions and versions."""
    functions = scope.functions().select(peewee.fn.SUM(Function.min_warm)).where(Function.min_warm > 0).scalar()
    versions = scope.versions().select(peewee.fn.SUM(Version.min_warm)).where(Version.min_warm > 0).scalar()
    return int(functions or 0) + int(versions or 0)


@contextlib.contextmanager
def _checked(project_id: str, kind: str, measure: Callable[[Scope], int]) -> Iterator[None]:
    limit = _locked_limits(project_id)[kind]
    if limit == UNLIMITED:
        yield
        return
    scope = scoped(Context(project_id))
    before = measure(scope)
    yield
    after = measure(scope)
    if after > max(limit, before):
        raise QuotaExceeded(kind, limit, before, after - before)


def _locked_limits(project_id: str) -> dict[str, int]:
    return _with_defaults(_locked_row(project_id))


def _locked_row(project_id: str) -> ProjectQuota | None:
    """The project's row, locked until the end of the transaction. With SQLite it may be None, as no lock is needed."""
    query = ProjectQuota.select().where(ProjectQuota.project_id == project_id)
    if not engine().for_update:
        return query.get_or_none()
    row = query.for_update().get_or_none()
    if row is None:
        ProjectQuota.insert(project_id=project_id).on_conflict_ignore().execute()
        row = query.for_update().get_or_none()
    return row


def _with_defaults(row: ProjectQuota | None) -> dict[str, int]:
    return {**default_quotas(), **({} if row is None else row.limits)}
