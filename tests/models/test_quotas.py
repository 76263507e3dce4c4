"""Quotas: which rows count, which writes are refused, and concurrent writes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.errors import Forbidden, QuotaExceeded
from qinling_falcon.models import alias, database, function, job, package_keys, quotas, version, webhook
from qinling_falcon.models.migrate import MIGRATIONS, migrate
from qinling_falcon.models.quotas import Quota
from qinling_falcon.models.records import record
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import QUOTAS, Settings
from tests.models.factories import in_one_batch, make_function, make_record, raced, record_as_before, together

Make = Callable[[Context, str], Any]
MAKE: dict[str, Make] = {
    quotas.FUNCTIONS: lambda context, function_id: make_function(
        context, function.get(context, function_id).runtime_id or ""
    ),
    quotas.VERSIONS: lambda context, function_id: new_version(context, function_id),
    quotas.ALIASES: lambda context, function_id: alias.create(context, name=unique(), function_id=function_id),
    quotas.WEBHOOKS: lambda context, function_id: webhook.create(context, function_id=function_id),
    quotas.JOBS: lambda context, function_id: job.create(context, function_id=function_id, pattern="0 0 * * *"),
}
"""Functions that create one row of each kind."""


def new_version(context: Context, function_id: str) -> version.Version:
    row = function.get(context, function_id)
    function.update(context, function_id, {"timeout": row.timeout + 1})
    return version.create(context, function_id, most=99)


_numbers = itertools.count()


def unique() -> str:
    return f"name-{next(_numbers)}"


def used(kind: str, project_id: str = "project-a") -> int:
    return quotas.of_project(project_id)[kind].used


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("kind", MAKE)
def test_a_project_gets_as_many_as_its_limit_and_after_a_deletion_one_more(
    kind: str, owner: Context, function_id: str
) -> None:
    quotas.change(owner.project_id, {kind: used(kind) + 2})
    made = [MAKE[kind](owner, function_id) for _ in range(2)]
    limit = used(kind)
    with pytest.raises(QuotaExceeded) as refused:
        MAKE[kind](owner, function_id)
    assert str(refused.value).startswith(f"Quota exceeded for {kind}: limit {limit}, used {limit}.")
    assert used(kind) == limit
    delete = {
        quotas.FUNCTIONS: lambda row: function.delete(owner, row.id),
        quotas.VERSIONS: lambda row: version.delete(owner, function_id, row.version_number),
        quotas.ALIASES: lambda row: alias.delete(owner, row.name),
        quotas.WEBHOOKS: lambda row: webhook.delete(owner, row.id),
        quotas.JOBS: lambda row: job.delete(owner, row.id),
    }
    delete[kind](made[0])
    MAKE[kind](owner, function_id)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("kind", MAKE)
def test_a_quota_applies_to_one_project_alone(kind: str, owner: Context, stranger: Context, function_id: str) -> None:
    quotas.change(owner.project_id, {kind: 0})
    its = make_function(stranger, function.get(owner, function_id).runtime_id or "").id
    MAKE[kind](stranger, its)
    with pytest.raises(Forbidden):
        MAKE[kind](owner, function_id)


@pytest.mark.usefixtures("settings")
def test_settings_are_the_limits_of_projects_without_others(settings: Settings, owner: Context) -> None:
    assert {kind: quota.limit for kind, quota in quotas.of_project("new").items()} == settings.quotas
    quotas.change(owner.project_id, {quotas.JOBS: 3})
    quotas.change(owner.project_id, {quotas.ALIASES: -1, quotas.PACKAGE_BYTES: 2**53 - 1})
    limits = {kind: quota.limit for kind, quota in quotas.of_project(owner.project_id).items()}
    changed = {quotas.JOBS: 3, quotas.ALIASES: -1, quotas.PACKAGE_BYTES: 2**53 - 1}
    assert limits == settings.quotas | changed
    assert quotas.limits_of("new") == settings.quotas


@pytest.mark.usefixtures("settings")
def test_unlimited_quotas_refuse_nothing(owner: Context, function_id: str) -> None:
    quotas.change(owner.project_id, dict.fromkeys(QUOTAS, quotas.UNLIMITED))
    for make in MAKE.values():
        make(owner, function_id)
    make_function(owner, function.get(owner, function_id).runtime_id or "", package_key="large", package_size=2**50)
    assert used(quotas.PACKAGE_BYTES) == 2**50


@pytest.mark.usefixtures("settings")
def test_a_package_counts_once_however_many_rows_share_it(owner: Context, runtime_id: str) -> None:
    first = make_function(owner, runtime_id, package_key="a", package_size=100).id
    version.create(owner, first, most=9)
    make_function(owner, runtime_id, package_key="b", package_size=30)
    assert used(quotas.PACKAGE_BYTES) == 130
    # The version keeps the old one.
    function.update(owner, first, {"package_key": "c", "package_size": 7})
    assert used(quotas.PACKAGE_BYTES) == 137
    version.delete(owner, first, 1)
    assert used(quotas.PACKAGE_BYTES) == 37
    function.delete(owner, first)
    assert used(quotas.PACKAGE_BYTES) == 30


@pytest.mark.usefixtures("settings")
def test_packages_above_the_limit_are_refused_and_smaller_ones_taken(owner: Context, runtime_id: str) -> None:
    quotas.change(owner.project_id, {quotas.PACKAGE_BYTES: 100})
    function_id = make_function(owner, runtime_id, package_key="a", package_size=60).id
    with pytest.raises(QuotaExceeded, match="for package_bytes: limit 100, used 60, and this request adds 41"):
        make_function(owner, runtime_id, package_key="b", package_size=41)
    make_function(owner, runtime_id, package_key="b", package_size=40)
    with pytest.raises(QuotaExceeded):
        function.update(owner, function_id, {"package_key": "c", "package_size": 61})
    assert function.get(owner, function_id).package_key == "a"
    quotas.change(owner.project_id, {quotas.PACKAGE_BYTES: 10})
    # Above its limit now: what makes it less is welcome.
    function.update(owner, function_id, {"package_key": "c", "package_size": 59})
    function.update(owner, function_id, {"package_key": "d", "package_size": 59})
    with pytest.raises(QuotaExceeded):
        function.update(owner, function_id, {"package_key": "e", "package_size": 60})
    assert used(quotas.PACKAGE_BYTES) == 99


@pytest.mark.usefixtures("settings")
def test_a_newer_copy_of_an_object_in_swift_counts_too(owner: Context, runtime_id: str) -> None:
    where = {"container": "c", "object": "o"}
    code = {"source": "swift", "swift": where, "md5sum": "0" * 32}
    row = make_function(owner, runtime_id, code=code, package_key="a", package_size=50, source_etag="1")
    quotas.change(owner.project_id, {quotas.PACKAGE_BYTES: 60})
    copy: dict[str, Any] = {"md5sum": "1" * 32, "package_key": "b", "source_etag": "2"}
    with pytest.raises(QuotaExceeded):
        function.refresh(owner, row.id, where, "1", package_size=61, **copy)
    assert function.get(owner, row.id).source_etag == "1"
    assert function.refresh(owner, row.id, where, "1", package_size=60, **copy) == {"a"}
    assert used(quotas.PACKAGE_BYTES) == 60


@pytest.mark.usefixtures("settings")
def test_executions_are_counted_exactly_however_many_there_are(
    owner: Context, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "_STEP", 4)
    statuses = ["success"] * 9 + ["failed"] * 4 + ["running", "error"]
    for number, status in enumerate(statuses, 1):
        record(make_record(function_id, status=status))
        record(make_record(function_id, "project-b", status=status))
        assert quotas.executions_kept(owner.project_id) == number


@pytest.mark.usefixtures("settings")
def test_the_record_of_what_has_run_is_never_refused(owner: Context, function_id: str) -> None:
    quotas.change(owner.project_id, {quotas.EXECUTIONS: 0})
    assert record(make_record(function_id))
    assert quotas.of_project(owner.project_id)[quotas.EXECUTIONS] == Quota(limit=0, used=1)


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize("kind", MAKE)
def test_writes_of_one_batch_do_not_get_past_a_limit_together(kind: str, owner: Context, runtime_id: str) -> None:
    function_ids = [make_function(owner, runtime_id).id for _ in range(6)]
    quotas.change(owner.project_id, {kind: used(kind) + 3})
    outcomes = in_one_batch([lambda name=name: MAKE[kind](owner, name) for name in function_ids])
    assert len([outcome for outcome in outcomes if isinstance(outcome, QuotaExceeded)]) == 3
    assert used(kind) == quotas.of_project(owner.project_id)[kind].limit


_SIZES = '"name": "n", "cpu": 100, "memory_size": 33554432, "timeout": 5, "entry": "main.main"'
_CODE = '"code": {"source": "package", "md5sum": "0" * 32}'
ELSEWHERE = {
    quotas.FUNCTIONS: f"function.create(Context(project), runtime_id=runtime, **{{{_SIZES}, {_CODE},"
    ' "package_key": "k2", "package_size": 1})',
    quotas.PACKAGE_BYTES: f"function.create(Context(project), runtime_id=runtime, **{{{_SIZES}, {_CODE},"
    ' "package_key": "k2", "package_size": 60})',
    quotas.VERSIONS: "version.create(Context(project), second, most=9)",
    quotas.ALIASES: "alias.create(Context(project), name='two', function_id=second)",
    quotas.WEBHOOKS: "webhook.create(Context(project), function_id=second)",
    quotas.JOBS: "job.create(Context(project), function_id=second, pattern='0 0 * * *')",
}
HERE: dict[str, Callable[[Context, str, str], Any]] = {
    quotas.FUNCTIONS: lambda context, runtime, first: make_function(context, runtime),
    quotas.PACKAGE_BYTES: lambda context, runtime, first: make_function(context, runtime, package_size=60),
    quotas.VERSIONS: lambda context, runtime, first: version.create(context, first, most=9),
    quotas.ALIASES: lambda context, runtime, first: alias.create(context, name="one", function_id=first),
    quotas.WEBHOOKS: lambda context, runtime, first: webhook.create(context, function_id=first),
    quotas.JOBS: lambda context, runtime, first: job.create(context, function_id=first, pattern="0 0 * * *"),
}


@pytest.mark.parametrize("kind", HERE)
def test_two_processes_at_once_do_not_get_past_a_limit_together(
    kind: str, settings: Settings, runtime_id: str
) -> None:
    """Each of many projects may have one more row, and both processes write one at the same time."""
    targets = []
    for number in range(25):
        project = Context(f"project-{number}")
        first, second = (make_function(project, runtime_id).id for _ in range(2))
        room = 100 if kind == quotas.PACKAGE_BYTES else used(kind, project.project_id) + 1
        quotas.change(project.project_id, {kind: room})
        targets.append(f"{project.project_id} {runtime_id} {first} {second}")

    def here(target: str) -> str:
        project, runtime, first, _ = target.split()
        try:
            HERE[kind](Context(project), runtime, first)
        except QuotaExceeded:
            return "QuotaExceeded"
        return "done"

    statement = f"project, runtime, _, second = target.split(); {ELSEWHERE[kind]}"
    outcomes = raced(settings, statement, targets, here)
    assert {tuple(sorted(outcome)) for outcome in outcomes} == {("QuotaExceeded", "done")}


@pytest.mark.usefixtures("settings")
def test_kept_workers_are_those_of_functions_and_versions(owner: Context, runtime_id: str) -> None:
    quotas.change(owner.project_id, {quotas.KEPT_WORKERS: 5})
    first = make_function(owner, runtime_id, min_warm=2).id
    version.create(owner, first, most=9)
    second = make_function(owner, runtime_id).id
    assert used(quotas.KEPT_WORKERS) == 4

    with pytest.raises(QuotaExceeded, match="kept_workers: limit 5, used 4, and this request adds 2"):
        function.update(owner, second, {"min_warm": 2})
    with pytest.raises(QuotaExceeded):
        make_function(owner, runtime_id, min_warm=2)
    function.update(owner, second, {"min_warm": 1})
    with pytest.raises(QuotaExceeded):
        version.create(owner, second, most=9)

    quotas.change(owner.project_id, {quotas.KEPT_WORKERS: 0})
    function.update(owner, first, {"min_warm": 1})
    function.update(owner, first, {"timeout": 9})
    version.delete(owner, first, 1)
    assert used(quotas.KEPT_WORKERS) == 2


@pytest.mark.usefixtures("settings")
def test_at_once_no_more_workers_are_kept_than_the_quota_allows(owner: Context, runtime_id: str) -> None:
    quotas.change(owner.project_id, {quotas.KEPT_WORKERS: 3})

    outcomes = together([lambda: make_function(owner, runtime_id, min_warm=1)] * 6)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Function"] * 3 + ["QuotaExceeded"] * 3


def test_what_is_there_before_the_migration_counts(empty_database: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "migrations"
    folder.mkdir()
    for path in sorted(MIGRATIONS.glob("000[1-4]_*.py")):
        (folder / path.name).write_text(path.read_text())
    migrate(empty_database, directory=folder)
    database.connect(empty_database)
    try:
        database.transact(_fill_old_tables)
        record_as_before(empty_database, make_record("function-1"))
        assert migrate(empty_database)[0] == "0005_quotas"
        found = {kind: quota.used for kind, quota in quotas.of_project("project-a").items()}
        assert found == dict.fromkeys(QUOTAS, 0) | {"functions": 4, "versions": 1, "executions": 1}
        # Packages are measured by the pool manager; one that can't be found stays unknown, and stops no other.
        assert package_keys.fill_sizes({"a": 100, "b": 20}.get) == ["a", "b"]
        assert used(quotas.PACKAGE_BYTES) == 120
        assert package_keys.fill_sizes({"c": 3}.get) == ["c"]
        assert package_keys.fill_sizes({}.get) == []
        assert used(quotas.PACKAGE_BYTES) == 123
        assert version.get(Context("project-a"), "function-1", 1).package_size == 100
    finally:
        database.disconnect()


def _fill_old_tables() -> None:
    """Four functions; the first shares its package with its version, the last has none."""
    shared = {"project_id": "project-a", "created_at": 1, "runtime_id": "runtime-1", "code": "{}", "entry": "main.main"}
    shared |= {"cpu": 100, "memory_size": 33554432, "timeout": 5, "count": 0, "digest": "d"}
    runtime = {"id": "runtime-1", "project_id": "project-a", "created_at": 1, "image": "python3", "is_public": True}
    _insert("runtimes", runtime | {"trusted": True, "status": "available"})
    for number, key in enumerate(("a", "b", "c", None), 1):
        _insert("functions", shared | {"id": f"function-{number}", "latest_version": 1, "package_key": key})
    _insert(
        "function_versions",
        shared | {"id": "version-1", "function_id": "function-1", "version_number": 1, "package_key": "a"},
    )


def _insert(table: str, row: dict[str, Any]) -> None:
    engine = database.engine()
    params = ", ".join([engine.param] * len(row))
    engine.execute_sql(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({params})", list(row.values()))
