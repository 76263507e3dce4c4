"""Versions and aliases as rows: numbers, counts, packages, and what keeps what from going, on both databases."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

from qinling_falcon.errors import BadRequest, Forbidden, NotFound, QinlingError
from qinling_falcon.models import alias, database, function, package_keys, version
from qinling_falcon.models.records import begin, record
from qinling_falcon.models.scope import Context, scoped
from qinling_falcon.settings import Settings
from tests.models.factories import in_one_batch, make_function, make_record, make_runtime, together


def make_version(owner: Context, function_id: str, **fields: Any) -> version.Version:
    """A version, after a change that allows it."""
    changed = function.get(owner, function_id)
    function.update(owner, function_id, {"timeout": changed.timeout % 300 + 1})
    return version.create(owner, function_id, **({"most": 100} | fields))


def test_a_version_keeps_what_it_fixed(owner: Context, function_id: str) -> None:
    made = make_version(owner, function_id)
    then = function.get(owner, function_id)
    changes = {"entry": "a.b", "cpu": 200, "memory_size": 1 << 26, "timeout": 99, "package_key": "key-2"}
    changes |= {"isolation": "per_call", "concurrency": 3, "min_warm": 1}
    changes |= {"code": {"source": "package", "md5sum": "1" * 32}}
    assert function.update(owner, function_id, changes).unused == set()  # the version has it still
    shown = version.get(owner, function_id, made.version_number)
    for name in (
        "runtime_id", "code", "entry", "cpu", "memory_size", "timeout", "digest", "package_key", "isolation",
        "concurrency", "min_warm",
    ):  # fmt: skip
        assert getattr(shown, name) == getattr(then, name)


def test_at_once_one_version_is_made_of_one_change(owner: Context, function_id: str) -> None:
    outcomes = together([lambda: version.create(owner, function_id, most=10)] * 8)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Forbidden"] * 7 + ["Version"]
    assert function.get(owner, function_id).latest_version == 1


def test_packages_are_unused_when_the_last_row_has_let_go(owner: Context, function_id: str) -> None:
    first, second = make_version(owner, function_id), make_version(owner, function_id)
    assert package_keys.in_use() == {"key-1"}
    function.update(owner, function_id, {"package_key": "key-2"})
    assert package_keys.in_use() == {"key-1", "key-2"}
    assert version.delete(owner, function_id, first.version_number) == set()
    assert version.delete(owner, function_id, second.version_number) == {"key-1"}
    make_version(owner, function_id)
    assert function.delete(owner, function_id) == {"key-2"}
    assert package_keys.in_use() == set()


def test_each_call_counts_for_the_version_that_it_ran(owner: Context, function_id: str, runtime_id: str) -> None:
    other = make_function(owner, runtime_id).id
    for _ in range(2):
        make_version(owner, function_id)
    make_version(owner, other)
    wanted = {(function_id, 0): 3, (function_id, 1): 2, (function_id, 2): 4, (other, 0): 1, (other, 1): 5}
    records = [
        make_record(of, function_version=number) for (of, number), count in wanted.items() for _ in range(count)
    ]
    assert all(in_one_batch([lambda rec=rec: record(rec) for rec in records]))
    assert not any(record(rec) for rec in records)  # once each
    counts = {(of, number): version.get(owner, of, number).count for of, number in wanted if number}
    counts |= {(of, 0): function.get(owner, of).count for of in (function_id, other)}
    assert counts == wanted


def test_an_execution_that_began_counts_where_it_ended(owner: Context, function_id: str) -> None:
    """The alias that it was called by has moved on between the two."""
    for _ in range(2):
        make_version(owner, function_id)
    begun = make_record(function_id, function_version=1, result=None, log=None, updated_at=None)
    assert begin(begun)
    assert record(make_record(function_id, id=begun.id, function_version=2))
    assert [version.get(owner, function_id, number).count for number in (1, 2)] == [0, 1]


def test_strangers_find_nothing_and_admins_change_nothing(
    owner: Context, stranger: Context, admin: Context, function_id: str
) -> None:
    make_version(owner, function_id)
    for context, error in ((stranger, NotFound), (admin, Forbidden)):
        with pytest.raises(error):
            version.create(context, function_id, most=10)
        with pytest.raises(error):
            version.delete(context, function_id, 1)
    with pytest.raises(NotFound):
        version.get(stranger, function_id, 1)
    assert version.get(admin, function_id, 1).version_number == 1


def test_aliases_are_found_in_their_own_project_alone(
    owner: Context, stranger: Context, admin: Context, function_id: str, runtime_id: str
) -> None:
    alias.create(owner, name="prod", function_id=function_id)
    for context in (stranger, admin):
        with pytest.raises(NotFound):
            alias.get(context, "prod")
        with pytest.raises(NotFound):
            alias.create(context, name="mine", function_id=function_id)
    theirs = make_function(stranger, runtime_id).id
    assert alias.create(stranger, name="prod", function_id=theirs).function_id == theirs
    assert alias.get(owner, "prod").function_id == function_id
    with pytest.raises(NotFound, match="function_id"):
        alias.update(owner, "prod", {"function_id": theirs})


def test_at_once_one_alias_gets_a_name(owner: Context, function_id: str) -> None:
    outcomes = together([lambda: alias.create(owner, name="prod", function_id=function_id)] * 8)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Alias"] + ["Conflict"] * 7


def test_a_refused_update_of_an_alias_leaves_it(owner: Context, function_id: str) -> None:
    make_version(owner, function_id)
    alias.create(owner, name="prod", function_id=function_id, function_version=1, routing=(0, 0.5))
    with pytest.raises(BadRequest, match="routing"):
        alias.update(owner, "prod", {"function_version": 0})
    with pytest.raises(NotFound, match="function_version"):
        alias.update(owner, "prod", {"function_version": 7})
    kept = alias.get(owner, "prod")
    assert (kept.function_version, kept.routing, kept.updated_at) == (1, (0, 0.5), None)


# Two processes: what each of them checks has to hold until its commit, whatever the other does meanwhile.

ROUNDS = 40


def _make_versions_and_delete_them(settings: Settings, owner: Context, function_id: str, outcomes: Any) -> None:
    database.connect(settings)
    for _ in range(ROUNDS):
        number = make_version(owner, function_id).version_number
        try:
            version.delete(owner, function_id, number)
            outcomes.put("deleted")
        except Forbidden:
            outcomes.put("in use")
    outcomes.put(None)
    database.disconnect()


def _name_the_latest(settings: Settings, owner: Context, function_id: str, outcomes: Any) -> None:
    database.connect(settings)
    latest = named = 0
    while latest < ROUNDS:
        latest = function.get(owner, function_id).latest_version
        try:
            alias.create(owner, name=f"alias-{named}", function_id=function_id, function_version=latest)
            named += 1
        except NotFound:
            pass  # deleted since it was looked at
        except QinlingError as error:
            outcomes.put(repr(error))
    outcomes.put(None)
    database.disconnect()


def test_no_alias_names_a_version_that_another_process_deleted(
    settings: Settings, owner: Context, admin: Context
) -> None:
    function_id = make_function(owner, make_runtime(admin).id).id
    spawn = multiprocessing.get_context("spawn")
    outcomes = spawn.Queue()
    processes = [
        spawn.Process(target=work, args=(settings, owner, function_id, outcomes))
        for work in (_make_versions_and_delete_them, _name_the_latest)
    ]
    for process in processes:
        process.start()
    said = []
    while said.count(None) < 2:
        said.append(outcomes.get(timeout=60))
    for process in processes:
        process.join(20)
        assert process.exitcode == 0
    assert set(said) <= {"deleted", "in use", None}
    with database.reading():
        there = {row.version_number for row in version.of(owner, function_id)}
        named = {row.function_version for row in scoped(owner).aliases()}
    assert named <= there | {0}
