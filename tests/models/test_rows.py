"""Runtimes, functions and executions: who may do what, and what happens at once."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from qinling_falcon.errors import Conflict, Forbidden, NotFound
from qinling_falcon.models import clock, execution, function, rollout, runtime
from qinling_falcon.models.database import reading
from qinling_falcon.models.records import begin, record
from qinling_falcon.models.rows import find, find_by_id
from qinling_falcon.models.scope import Context, Scope, scoped, system
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, make_record, make_runtime, together

NOBODY = str(uuid.uuid4())


def ids(select: object) -> list[str]:
    with reading():
        return [row.id for row in select]


# Scopes


def test_lists_hold_the_project_s_own_rows(owner: Context, stranger: Context, admin: Context, function_id: str) -> None:
    rec = make_record(function_id)
    record(rec)
    assert ids(scoped(owner).functions()) == [function_id]
    assert ids(scoped(owner).executions()) == [rec.id]
    for context in (stranger, admin):
        assert ids(scoped(context).functions()) == []
        assert ids(scoped(context).executions()) == []
    assert ids(scoped(admin, all_projects=True).functions()) == [function_id]
    assert ids(system("test").executions()) == [rec.id]


def test_a_reason_is_needed_to_see_everything() -> None:
    with pytest.raises(ValueError, match="reason"):
        system("")


def test_by_id_an_admin_sees_all_and_others_their_own(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    rec = make_record(function_id)
    record(rec)
    for context in (owner, admin):
        assert function.get(context, function_id).id == function_id
        assert execution.get(context, rec.id).id == rec.id
        assert execution.get_log(context, rec.id) == rec.log
    with pytest.raises(NotFound):
        function.get(stranger, function_id)
    with pytest.raises(NotFound):
        execution.get(stranger, rec.id)
    with pytest.raises(NotFound):
        execution.get_log(stranger, rec.id)


def test_a_row_found_by_a_text_made_once_is_the_same_row(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    private = make_runtime(owner, is_public=False)
    public = make_runtime(owner)
    for rows, row_id in ((Scope.functions, function_id), (Scope.runtimes, private.id), (Scope.runtimes, public.id)):
        for context in (owner, stranger, admin):
            scope = scoped(context, by_id=True)
            try:
                expected = vars(find(rows(scope), row_id, field="some_id"))
            except NotFound as error:
                with pytest.raises(NotFound) as caught:
                    find_by_id(rows, scope, row_id, "some_id")
                assert (caught.value.message, caught.value.errors) == (error.message, error.errors)
            else:
                assert vars(find_by_id(rows, scope, row_id, "some_id")) == expected


def test_runtimes_are_seen_when_own_or_public(settings: Settings, owner: Context, stranger: Context) -> None:
    public, private = make_runtime(owner), make_runtime(owner, is_public=False)
    assert ids(scoped(owner).runtimes()) == [public.id, private.id]
    assert ids(scoped(stranger).runtimes()) == [public.id]
    with pytest.raises(NotFound):
        runtime.get(stranger, private.id)
    with pytest.raises(NotFound, match="runtime_id"):
        make_function(stranger, private.id)


def test_unknown_ids_are_not_found(settings: Settings, admin: Context) -> None:
    for call in (
        lambda: runtime.get(admin, NOBODY),
        lambda: runtime.update(admin, NOBODY, {"name": "x"}),
        lambda: runtime.delete(admin, NOBODY),
        lambda: function.get(admin, NOBODY),
        lambda: function.update(admin, NOBODY, {"name": "x"}),
        lambda: function.delete(admin, NOBODY),
        lambda: execution.get(admin, NOBODY),
        lambda: execution.delete(admin, NOBODY),
    ):
        with pytest.raises(NotFound, match=NOBODY):
            call()


# Runtimes


def statuses() -> dict[str, str]:
    return {row.id: row.status for row in runtime.everything()}


def test_a_runtime_is_made_available_or_ends_in_error(settings: Settings, admin: Context) -> None:
    good = runtime.create(admin, image="python3", name="Python", description="d", is_public=False, trusted=False)
    bad = runtime.create(admin, image="nonsense")
    assert (good.status, bad.status) == ("creating", "creating")
    assert {good.id: "creating", bad.id: "creating"}.items() <= statuses().items()
    assert rollout.promote(good.id, "python3")
    assert rollout.abort(bad.id, "nonsense", "no such image")
    row = runtime.get(admin, good.id)
    assert (row.status, row.status_reason, row.name, row.description) == ("available", None, "Python", "d")
    assert (row.is_public, row.trusted, row.updated_at) == (False, False, None)
    row = runtime.get(admin, bad.id)
    assert (row.status, row.status_reason) == ("error", "no such image")
    assert {good.id: "available", bad.id: "error"}.items() <= statuses().items()
    assert not rollout.abort(good.id, "python3", "late")
    assert not rollout.promote(NOBODY, "python3")


def test_another_image_has_to_prove_itself(admin: Context, runtime_id: str) -> None:
    row = runtime.update(admin, runtime_id, {"image": "python4", "name": "new"})
    assert (row.status, row.image, row.name) == ("upgrading", "python4", "new")
    assert row.updated_at is not None
    with pytest.raises(Conflict, match="upgrading"):
        runtime.update(admin, runtime_id, {"image": "python5"})
    assert not rollout.promote(runtime_id, "python3")
    assert rollout.abort(runtime_id, "python4", "no such image")
    row = runtime.get(admin, runtime_id)
    assert (row.status, row.image, row.status_reason) == ("available", "python3", "no such image")


def test_an_image_that_works_is_upgrading_until_the_workers_are_rolled(admin: Context, runtime_id: str) -> None:
    runtime.update(admin, runtime_id, {"image": "python4"})
    assert not rollout.complete(runtime_id, "python4")  # on trial yet
    assert rollout.promote(runtime_id, "python4")
    assert not rollout.promote(runtime_id, "python4")
    row = runtime.get(admin, runtime_id)
    assert (row.status, row.image, row.previous_image) == ("upgrading", "python4", None)
    with pytest.raises(Conflict, match="upgrading"):
        runtime.update(admin, runtime_id, {"image": "python3"})
    assert not rollout.complete(runtime_id, "python3")
    assert rollout.complete(runtime_id, "python4")
    assert not rollout.complete(runtime_id, "python4")
    row = runtime.get(admin, runtime_id)
    assert (row.status, row.image, row.status_reason) == ("available", "python4", None)
    assert not rollout.abort(runtime_id, "python4", "too late")
    assert runtime.get(admin, runtime_id).image == "python4"


def test_a_promoted_image_is_aborted_until_the_rollout_is_complete(admin: Context, runtime_id: str) -> None:
    runtime.update(admin, runtime_id, {"image": "python4"})
    rollout.promote(runtime_id, "python4")
    assert not rollout.abort(runtime_id, "python3", "of another image")
    assert rollout.abort(runtime_id, "python4", "it does not start any more")
    row = runtime.get(admin, runtime_id)
    assert (row.status, row.image, row.status_reason) == ("available", "python3", "it does not start any more")
    assert not rollout.complete(runtime_id, "python4")
    assert runtime.update(admin, runtime_id, {"image": "python5"}).status == "upgrading"


def test_a_name_changes_in_any_status(settings: Settings, admin: Context) -> None:
    made = make_runtime(admin, available=False)
    assert runtime.update(admin, made.id, {"name": "new", "image": "python3"}).status == "creating"
    assert runtime.get(admin, made.id).name == "new"


def test_a_runtime_in_use_stays(owner: Context, admin: Context, runtime_id: str, function_id: str) -> None:
    with pytest.raises(Forbidden, match="in use"):
        runtime.delete(admin, runtime_id)
    function.delete(owner, function_id)
    assert runtime.delete(admin, runtime_id).status == "deleting"
    assert runtime.delete(admin, runtime_id).status == "deleting"
    with pytest.raises(Conflict, match="deleting"):
        make_function(owner, runtime_id)
    assert runtime.remove(runtime_id)
    assert not runtime.remove(runtime_id)
    with pytest.raises(NotFound):
        runtime.get(admin, runtime_id)


def test_only_what_is_being_deleted_is_removed(runtime_id: str) -> None:
    assert not runtime.remove(runtime_id)


def test_no_function_is_left_without_its_runtime(settings: Settings, owner: Context, admin: Context) -> None:
    """Deletes race with creates, in one process and from another one."""
    targets = [make_runtime(admin).id for _ in range(10)]
    script = f"""
from pathlib import Path
from qinling_falcon.errors import Forbidden
from qinling_falcon.models import database, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
database.connect(Settings(var_dir=Path({str(settings.var_dir)!r}), database_url={settings.database_url!r}))
print("ready", flush=True)
input()
for target in {targets!r}:
    try:
        runtime.delete(Context("admins", True), target)
    except Forbidden:
        pass
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    outcomes = together([lambda target=target: make_function(owner, target) for target in reversed(targets)])
    assert process.wait(30) == 0
    process.stdin.close()
    process.stdout.close()
    for target, outcome in zip(reversed(targets), outcomes, strict=True):
        made = not isinstance(outcome, Exception)
        assert made or isinstance(outcome, Conflict)
        assert (runtime.get(admin, target).status == "available") == made


# Functions


def test_a_function_is_read_back_as_it_was_made(owner: Context, runtime_id: str) -> None:
    made = make_function(owner, runtime_id, description="d", code={"source": "package", "md5sum": "ab", "z": [1]})
    row = function.get(owner, made.id)
    assert row.__data__ == made.__data__ | {"updated_at": None, "source_etag": None, "trust_id": None}
    assert (row.code, row.count, row.latest_version) == ({"source": "package", "md5sum": "ab", "z": [1]}, 0, 0)
    assert (row.project_id, row.updated_at, len(row.digest)) == (owner.project_id, None, 64)


def test_a_function_needs_an_available_runtime(settings: Settings, owner: Context, admin: Context) -> None:
    with pytest.raises(NotFound, match="runtime_id") as caught:
        make_function(owner, NOBODY)
    assert caught.value.errors is not None
    with pytest.raises(Conflict, match="creating"):
        make_function(owner, make_runtime(admin, available=False).id)
    assert ids(scoped(owner).functions()) == []


def test_what_a_worker_loads_changes_the_digest(owner: Context, admin: Context, runtime_id: str) -> None:
    made = make_function(owner, runtime_id)
    assert not function.update(owner, made.id, {"name": "n", "description": "d", "timeout": 9}).reload
    changes = (
        {"entry": "main.other"},
        {"cpu": 200},
        {"memory_size": 67108864},
        {"runtime_id": make_runtime(admin).id},
        {"code": {"source": "package", "md5sum": "1" * 32}, "package_key": "key-2"},
    )
    digests = {made.digest}
    for change in changes:
        updated = function.update(owner, made.id, change)
        assert updated.reload
        assert updated.unused == ({"key-1"} if "package_key" in change else set())
        digests.add(updated.function.digest)
    assert len(digests) == 6
    row = function.get(owner, made.id)
    assert (row.name, row.timeout, row.cpu, row.package_key, row.digest in digests) == ("n", 9, 200, "key-2", True)
    assert row.updated_at is not None


def test_equal_functions_load_the_same(owner: Context, runtime_id: str) -> None:
    assert make_function(owner, runtime_id).digest == make_function(owner, runtime_id, name="other").digest


def test_an_update_needs_an_available_runtime(
    owner: Context, admin: Context, function_id: str, runtime_id: str
) -> None:
    with pytest.raises(NotFound, match="runtime_id"):
        function.update(owner, function_id, {"runtime_id": NOBODY})
    with pytest.raises(Conflict):
        function.update(owner, function_id, {"runtime_id": make_runtime(admin, available=False).id})
    assert function.get(owner, function_id).runtime_id == runtime_id


def test_replaced_packages_are_each_named_once(owner: Context, function_id: str) -> None:
    keys = [f"key-{number}" for number in range(2, 12)]
    outcomes = together([lambda key=key: function.update(owner, function_id, {"package_key": key}) for key in keys])
    replaced = [key for outcome in outcomes for key in outcome.unused]
    assert sorted([*replaced, function.get(owner, function_id).package_key]) == sorted(["key-1", *keys])


def test_an_update_loses_no_count(owner: Context, function_id: str) -> None:
    calls = [lambda: record(make_record(function_id))] * 10
    calls += [lambda: function.update(owner, function_id, {"description": "d"})] * 10
    together(calls)
    assert function.get(owner, function_id).count == 10


def test_only_the_owner_changes_and_deletes(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    for context, error in ((stranger, NotFound), (admin, Forbidden)):
        with pytest.raises(error):
            function.update(context, function_id, {"name": "mine"})
        with pytest.raises(error):
            function.delete(context, function_id)
    assert function.delete(owner, function_id) == {"key-1"}
    with pytest.raises(NotFound):
        function.get(owner, function_id)


# Executions


def test_a_running_execution_is_not_deleted(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    rec = make_record(function_id)
    begin(rec)
    with pytest.raises(Conflict, match="running"):
        execution.delete(owner, rec.id)
    record(rec)
    with pytest.raises(NotFound):
        execution.delete(stranger, rec.id)
    with pytest.raises(Forbidden):
        execution.delete(admin, rec.id)
    execution.delete(owner, rec.id)
    with pytest.raises(NotFound):
        execution.get(owner, rec.id)


def test_what_has_not_ended_is_found(owner: Context, function_id: str) -> None:
    old, ended = make_record(function_id), make_record(function_id)
    begin(old)
    record(ended)
    before = clock.now()
    begin(make_record(function_id))
    assert [row.id for row in execution.running_since(before)] == [old.id]
