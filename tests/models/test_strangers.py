"""What the models give to strangers: nothing of another project's, by any scope or any function."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from qinling_falcon import models
from qinling_falcon.errors import NotFound
from qinling_falcon.models import (
    alias,
    database,
    execution,
    execution_retries,
    function,
    job,
    references,
    rows,
    runtime,
    tables,
    version,
    webhook,
)
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context, Scope, project_of, scoped, system
from qinling_falcon.models.tables import Row
from tests.models.factories import make_function, make_record, make_runtime


@pytest.fixture
def its(owner: Context) -> SimpleNamespace:
    """One row of each table, all of the owner."""
    runtime_id = make_runtime(owner, is_public=False).id
    function_id = make_function(owner, runtime_id).id
    version.create(owner, function_id, most=9)
    ran = make_record(function_id, owner.project_id)
    assert record(ran)
    return SimpleNamespace(
        runtime=runtime_id,
        function=function_id,
        alias=alias.create(owner, name="its", function_id=function_id).name,
        webhook=webhook.create(owner, function_id=function_id).id,
        job=job.create(owner, function_id=function_id, pattern="0 0 * * *").id,
        execution=ran.id,
    )


@pytest.mark.usefixtures("settings", "its")
def test_a_scope_gives_the_rows_of_its_project(owner: Context, stranger: Context, admin: Context) -> None:
    methods = [name for name, _ in inspect.getmembers(Scope, inspect.isfunction) if not name.startswith("_")]
    with database.reading():
        assert {getattr(scoped(owner), name)().model for name in methods} == set(tables.ALL)
        for name in methods:

            def count(scope: Scope, name: str = name) -> int:
                return int(getattr(scope, name)().count())

            row = getattr(scoped(owner), name)().get()
            assert row.project_id == owner.project_id
            seeing = [scoped(owner), scoped(admin, by_id=True), scoped(admin, all_projects=True)]
            assert [count(scope) for scope in (*seeing, system("a test"), project_of(row))] == [1] * 5
            blind = [scoped(stranger), scoped(stranger, by_id=True), scoped(admin), project_of(Row(project_id="b"))]
            assert [count(scope) for scope in blind] == [0] * 4


@pytest.mark.usefixtures("settings")
def test_public_runtimes_are_seen_by_all(owner: Context, stranger: Context) -> None:
    public = make_runtime(owner).id
    with database.reading():
        assert [row.id for row in scoped(stranger).runtimes()] == [public]


_TEXT: dict[str, Any] = {"code": {"source": "package", "md5sum": "0" * 32}, "entry": "main.main", "package_key": "k"}
_SIZE: dict[str, Any] = {"name": "n", "cpu": 100, "memory_size": 33554432, "timeout": 5}
_COPY: dict[str, Any] = {"md5sum": "", "package_key": "k", "package_size": 1, "source_etag": "e"}
ACCESSES: dict[Callable[..., Any], Callable[[SimpleNamespace], tuple[tuple[Any, ...], dict[str, Any]]]] = {
    runtime.get: lambda its: ((its.runtime,), {}),
    runtime.update: lambda its: ((its.runtime, {"name": "mine"}), {}),
    runtime.delete: lambda its: ((its.runtime,), {}),
    function.create: lambda its: ((), {"runtime_id": its.runtime} | _TEXT | _SIZE),
    function.get: lambda its: ((its.function,), {}),
    function.update: lambda its: ((its.function, {"name": "mine"}), {}),
    function.refresh: lambda its: ((its.function, {}, None), _COPY),
    function.delete: lambda its: ((its.function,), {}),
    version.create: lambda its: ((its.function,), {"most": 9}),
    version.get: lambda its: ((its.function, 1), {}),
    version.delete: lambda its: ((its.function, 1), {}),
    alias.create: lambda its: ((), {"name": "mine", "function_id": its.function}),
    alias.get: lambda its: ((its.alias,), {}),
    alias.update: lambda its: ((its.alias, {"description": "mine"}), {}),
    alias.delete: lambda its: ((its.alias,), {}),
    webhook.create: lambda its: ((), {"function_alias": its.alias}),
    webhook.get: lambda its: ((its.webhook,), {}),
    webhook.update: lambda its: ((its.webhook, {"description": "mine"}), {}),
    webhook.delete: lambda its: ((its.webhook,), {}),
    job.create: lambda its: ((), {"function_id": its.function, "pattern": "0 0 * * *"}),
    job.get: lambda its: ((its.job,), {}),
    job.update: lambda its: ((its.job, {"name": "mine"}), {}),
    job.run: lambda its: ((its.job, make_record(its.function, status="running", sync=False)), {}),
    job.delete: lambda its: ((its.job,), {}),
    execution.get: lambda its: ((its.execution,), {}),
    execution.get_log: lambda its: ((its.execution,), {}),
    execution.delete: lambda its: ((its.execution,), {}),
    execution_retries.check: lambda its: ((its.execution,), {}),
    execution_retries.retry: lambda its: ((its.execution, "mine"), {}),
}
"""All that models do for a caller, aimed at what another project has."""
APART = {
    scoped,  # what all of them ask
    runtime.create,  # names nothing
    runtime.register,  # looks for names among the runtimes that the caller sees
    runtime.unregistered,
    version.of,  # a query
    rows.check_owner,  # of a row that was found
    references.check_target,  # in the transactions of those that create
    execution.listed,  # a query
    execution.select_ended,  # a query
    execution.lock_ended,
    execution.delete_ended,  # of what the caller's project has
    execution_retries.find_some,
    execution_retries.retry_some,
    execution_retries.count_retriable,
}


@pytest.mark.usefixtures("settings")
def test_no_model_gives_a_stranger_anything(its: SimpleNamespace, stranger: Context) -> None:
    assert _for_callers() == ACCESSES.keys() | APART
    for access, arguments in ACCESSES.items():
        positional, named = arguments(its)
        with pytest.raises(NotFound):
            access(stranger, *positional, **named)
    assert execution.delete_ended(stranger, "success", None, 9) == []
    assert execution_retries.find_some(stranger, "success", None, 9) == {}
    assert execution_retries.retry_some(stranger, "success", None, 9, "mine") == []
    assert execution_retries.retry_some(stranger, "success", None, 9, "mine", {its.execution: None}) == []
    assert record(make_record(its.function, status="failed", sync=False))
    assert execution_retries.count_retriable(stranger, "failed", None, 9) == 0
    with database.reading():
        assert list(version.of(stranger, its.function)) == []


def _for_callers() -> set[Callable[..., Any]]:
    """The public functions of the models that do something for a caller."""
    names = [f"{models.__name__}.{module.name}" for module in pkgutil.iter_modules(models.__path__)]
    return {
        fn
        for name in names
        for _, fn in inspect.getmembers(importlib.import_module(name), inspect.isfunction)
        if (fn.__module__, fn.__name__[0] == "_") == (name, False) and "context" in inspect.signature(fn).parameters
    }
