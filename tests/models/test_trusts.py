"""Trusts: the last row to name one decides, and what is doomed is deleted, whatever ends in between."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from qinling_falcon.errors import Conflict, Forbidden
from qinling_falcon.models import clock, database, function, trusts, version
from qinling_falcon.models.internal_tables import DoomedTrust
from qinling_falcon.models.scope import Context
from qinling_falcon.settings import Settings
from tests.models.factories import make_function, make_runtime

NEW_CODE = {"code": {"source": "package", "md5sum": "1" * 32}, "package_key": "key-2"}


@pytest.fixture
def trusted(settings: Settings, runtime_id: str, owner: Context) -> str:
    """A function with a trust."""
    return make_function(owner, runtime_id, trust_id="trust-1").id


def test_a_function_takes_its_trust_along(trusted: str, owner: Context) -> None:
    assert trusts.doomed() == []
    function.delete(owner, trusted)
    assert trusts.doomed() == ["trust-1"]
    trusts.deleted("trust-1")
    assert trusts.doomed() == []


def test_a_replaced_trust_goes_and_a_kept_one_stays(trusted: str, owner: Context) -> None:
    function.update(owner, trusted, {"cpu": 200})
    assert trusts.doomed() == []
    function.update(owner, trusted, NEW_CODE | {"trust_id": "trust-2"})
    assert trusts.doomed() == ["trust-1"]
    function.update(owner, trusted, {"entry": "main.other", "trust_id": None})
    assert set(trusts.doomed()) == {"trust-1", "trust-2"}


def test_versions_keep_the_trust_of_their_code(trusted: str, owner: Context) -> None:
    version.create(owner, trusted, most=3)
    function.update(owner, trusted, NEW_CODE | {"trust_id": "trust-2"})
    version.create(owner, trusted, most=3)
    assert [version.get(owner, trusted, number).trust_id for number in (1, 2)] == ["trust-1", "trust-2"]
    with database.reading():
        assert DoomedTrust.select().count() == 0
    version.delete(owner, trusted, 2)
    assert trusts.doomed() == []
    version.delete(owner, trusted, 1)
    assert trusts.doomed() == ["trust-1"]
    function.delete(owner, trusted)
    assert set(trusts.doomed()) == {"trust-1", "trust-2"}


def test_a_function_takes_the_trusts_of_its_versions_along(trusted: str, owner: Context) -> None:
    version.create(owner, trusted, most=3)
    function.update(owner, trusted, NEW_CODE | {"trust_id": "trust-2"})
    function.delete(owner, trusted)
    assert set(trusts.doomed()) == {"trust-1", "trust-2"}


@pytest.mark.parametrize("act", ["update", "delete"])
def test_nothing_is_doomed_by_what_is_refused(trusted: str, owner: Context, admin: Context, act: str) -> None:
    away = make_runtime(admin, available=False).id
    acts: dict[str, Callable[[], object]] = {
        "update": lambda: function.update(owner, trusted, {"runtime_id": away, "trust_id": "trust-2"}),
        "delete": lambda: function.delete(admin, trusted),
    }
    with pytest.raises(Conflict if act == "update" else Forbidden):
        acts[act]()
    assert trusts.doomed() == []
    assert function.get(owner, trusted).trust_id == "trust-1"


def test_trust_and_row_go_together_or_not_at_all(trusted: str, owner: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(keys: object) -> None:
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(function, "unused", fail)
    with pytest.raises(RuntimeError):
        function.delete(owner, trusted)
    with pytest.raises(RuntimeError):
        function.update(owner, trusted, NEW_CODE | {"trust_id": "trust-2"})
    assert trusts.doomed() == []
    assert function.get(owner, trusted).trust_id == "trust-1"


def test_a_trust_whose_row_came_to_be_is_not_given_up(trusted: str, owner: Context) -> None:
    trusts.doom_unnamed("trust-1")
    trusts.doom_unnamed("trust-9")
    trusts.doom_unnamed("trust-9")
    assert trusts.doomed() == ["trust-9"]


def test_a_trust_that_was_doomed_before_its_row_came_to_be_is_not_deleted(
    settings: Settings, runtime_id: str, owner: Context
) -> None:
    trusts.doom_unnamed("trust-1")
    made = make_function(owner, runtime_id, trust_id="trust-1")
    assert trusts.doomed() == []
    function.delete(owner, made.id)
    assert trusts.doomed() == ["trust-1"]


def test_a_trust_that_no_row_comes_to_name_is_deleted_after_an_hour(
    settings: Settings, runtime_id: str, owner: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusts.expect("trust-1")
    trusts.expect("trust-2")
    made = make_function(owner, runtime_id, trust_id="trust-1")
    assert trusts.doomed() == []
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(minutes=59))
    assert trusts.doomed() == []
    monkeypatch.setattr(clock, "now", lambda: now + timedelta(minutes=61))
    assert trusts.doomed() == ["trust-2"]
    with database.reading():
        assert DoomedTrust.select().count() == 1
    trusts.expect("trust-3")
    function.update(owner, made.id, {"trust_id": "trust-3"})
    assert set(trusts.doomed()) == {"trust-1", "trust-2"}


def test_another_trust_is_another_target(trusted: str, owner: Context) -> None:
    """A worker that may hold one user's session is never lent to another's code."""
    before = function.get(owner, trusted).digest
    updated = function.update(owner, trusted, {"entry": "main.main", "trust_id": "trust-2"})
    assert updated.reload
    assert updated.function.digest != before


def test_doomed_trusts_outlive_the_process(trusted: str, owner: Context, settings: Settings) -> None:
    function.delete(owner, trusted)
    database.disconnect()
    database.connect(settings)
    assert trusts.doomed() == ["trust-1"]
