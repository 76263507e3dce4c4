"""`/v1/webhooks`, as records; calling them is not there yet."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.service import NOBODY, User, error, located, no_body
from tests.contract.shapes import WEBHOOK, check, check_all

pytestmark = pytest.mark.xdist_group("contract")


@pytest.fixture(scope="module")
def target(user: User) -> str:
    """A function with the versions 1 and 2."""
    function_id = user.function()
    assert [user.version(function_id) for _ in range(2)] == [1, 2]
    return function_id


@pytest.fixture(scope="module")
def alias(user: User, target: str) -> str:
    return user.alias(target, function_version=2)


def named(row: dict[str, Any]) -> tuple[Any, Any, Any]:
    """What a webhook runs."""
    return row["function_id"], row["function_version"], row["function_alias"]


def test_POST_v1_webhooks_answers_201(user: User, target: str) -> None:
    given = {"function_id": target, "description": "of a test", "function_version": 2}
    answer = user.post("/v1/webhooks", **given)
    assert answer.status_code == 201
    made = answer.json()
    located(user, answer, f"/v1/webhooks/{made['id']}")
    check(WEBHOOK, made)
    assert {field: made[field] for field in given} == given
    assert made["webhook_url"] == f"{user.url}/v1/webhooks/{made['id']}/invoke"
    assert (made["function_alias"], made["updated_at"]) == (None, None)


def test_a_webhook_of_an_alias_shows_neither_function_nor_version(user: User, target: str, alias: str) -> None:
    made = user.made("/v1/webhooks", function_alias=alias, description="of a test")
    check(WEBHOOK, made)
    assert (named(made), made["description"]) == ((None, None, alias), "of a test")
    both = user.made("/v1/webhooks", function_alias=alias, function_id=target, function_version=1)
    assert named(both) == (None, None, alias)


def test_what_is_left_out_of_a_webhook_has_its_default(user: User, target: str) -> None:
    for nulls in ({}, {"function_version": None, "function_alias": None, "description": None}):
        made = user.made("/v1/webhooks", function_id=target, **nulls)
        assert (named(made), made["description"]) == ((target, 0, None), None)


def test_the_url_of_a_webhook_is_made_at_each_answer(user: User, target: str) -> None:
    made = user.made("/v1/webhooks", function_id=target)
    headers = {"Host": "functions.example"}
    shown = user.get(f"/v1/webhooks/{made['id']}", headers=headers).json()
    assert shown["webhook_url"] == f"http://functions.example/v1/webhooks/{made['id']}/invoke"
    (row,) = user.get("/v1/webhooks", params={"id": made["id"]}, headers=headers).json()
    assert row == shown


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"function_id": None}, 400, "function_id"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_version": "one"}, 400, "function_version"),
        ({"function_alias": "no such alias"}, 404, "function_alias"),
        ({"function_alias": ""}, 400, "function_alias"),
        ({"description": "x" * 256}, 400, "description"),
        ({"version_number": 1}, 400, "version_number"),  # the reference's table, against its own examples
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_a_webhook_that_makes_no_sense_is_refused(
    user: User, target: str, fields: dict[str, Any], status: int, field: str
) -> None:
    error(user.post("/v1/webhooks", **{"function_id": target} | fields), status, field=field)


def test_GET_v1_webhooks_answers_200(user: User) -> None:
    function_id = user.function()
    made = [user.made("/v1/webhooks", function_id=function_id, description=text) for text in ("one", "two")]
    answer = user.get("/v1/webhooks", params={"function_id": function_id})
    assert answer.status_code == 200
    check_all(WEBHOOK, answer.json())
    assert answer.json() == made
    for query in ({"all_projects": "true"}, {"project_id": "default"}):
        assert user.get("/v1/webhooks", params={"function_id": function_id} | query).json() == made


def test_GET_v1_webhooks_id_answers_200(user: User, target: str) -> None:
    made = user.made("/v1/webhooks", function_id=target, function_version=1)
    answer = user.get(f"/v1/webhooks/{made['id']}")
    assert answer.status_code == 200
    check(WEBHOOK, answer.json())
    assert answer.json() == made
    error(user.get(f"/v1/webhooks/{NOBODY}"), 404, NOBODY)


def test_PUT_v1_webhooks_id_answers_202(user: User, target: str) -> None:
    made = user.made("/v1/webhooks", function_id=target)
    path = f"/v1/webhooks/{made['id']}"
    given = {"function_id": target, "description": "changed", "function_version": 2}
    answer = user.put(path, **given)
    assert answer.status_code == 202
    located(user, answer, path)
    updated = answer.json()
    check(WEBHOOK, updated)
    assert updated == made | given | {"updated_at": updated["updated_at"]}
    assert updated["updated_at"] is not None
    assert user.get(path).json() == updated
    error(user.put(f"/v1/webhooks/{NOBODY}", description="d"), 404, NOBODY)


def test_an_alias_and_a_function_take_each_others_place(user: User, target: str, alias: str) -> None:
    path = f"/v1/webhooks/{user.made('/v1/webhooks', function_id=target, function_version=1)['id']}"
    other = user.function()
    for given, expected in (
        ({"function_version": 2}, (target, 2, None)),
        ({"function_id": other}, (other, 0, None)),
        ({"function_alias": alias, "description": "of a test"}, (None, None, alias)),
        ({"description": "changed"}, (None, None, alias)),
        ({"function_id": target}, (target, 0, None)),
        ({"function_alias": alias, "function_id": target, "function_version": 1}, (None, None, alias)),
        ({"function_id": target, "function_version": 1}, (target, 1, None)),
    ):
        answer = user.put(path, **given)
        assert (answer.status_code, named(answer.json())) == (202, expected), given
        assert named(user.get(path).json()) == expected


def test_a_null_clears_nothing(user: User, target: str, alias: str) -> None:
    nulls = {"function_id": None, "function_version": None, "function_alias": None, "description": None}
    for given in ({"function_id": target, "function_version": 1}, {"function_alias": alias}):
        made = user.made("/v1/webhooks", description="d", **given)
        path = f"/v1/webhooks/{made['id']}"
        for answer in (user.put(path, **nulls), user.put(path), user.send("PUT", path)):
            assert (answer.status_code, answer.json()) == (202, made)


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_alias": "no such alias"}, 404, "function_alias"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"webhook_url": "http://example"}, 400, "webhook_url"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_an_update_that_makes_no_sense_is_refused(
    user: User, target: str, fields: dict[str, Any], status: int, field: str
) -> None:
    made = user.made("/v1/webhooks", function_id=target, function_version=1)
    error(user.put(f"/v1/webhooks/{made['id']}", **fields), status, field=field)
    assert user.get(f"/v1/webhooks/{made['id']}").json() == made


def test_a_version_alone_is_no_target_of_a_webhook_that_names_an_alias(user: User, alias: str) -> None:
    made = user.made("/v1/webhooks", function_alias=alias)
    error(user.put(f"/v1/webhooks/{made['id']}", function_version=1), 400, field="function_id")


def test_DELETE_v1_webhooks_id_answers_204(user: User, target: str) -> None:
    path = f"/v1/webhooks/{user.made('/v1/webhooks', function_id=target)['id']}"
    no_body(user.delete(path), 204)
    for answer in (user.get(path), user.put(path, description="d"), user.delete(path)):
        error(answer, 404, path.rpartition("/")[2])
