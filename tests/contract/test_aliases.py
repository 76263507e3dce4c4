"""`/v1/aliases`: names of versions of functions."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.contract.service import NOBODY, User, error, located, no_body
from tests.contract.shapes import ALIAS, check, check_all

pytestmark = pytest.mark.xdist_group("contract")


@pytest.fixture(scope="module")
def target(user: User) -> str:
    """A function with the versions 1 and 2."""
    function_id = user.function()
    assert [user.version(function_id) for _ in range(2)] == [1, 2]
    return function_id


@pytest.fixture
def name(user: User) -> Iterator[str]:
    """A name that no other alias has."""
    name = f"hw-{uuid.uuid4()}"
    yield name
    user.delete(f"/v1/aliases/{name}")


def test_POST_v1_aliases_answers_201(user: User, target: str, name: str) -> None:
    given = {"function_id": target, "name": name, "function_version": 2, "description": "version 2 of a test"}
    answer = user.post("/v1/aliases", **given)
    assert answer.status_code == 201
    located(user, answer, f"/v1/aliases/{name}")
    made = answer.json()
    check(ALIAS, made)
    assert {field: made[field] for field in given} == given
    assert (made["updated_at"], made["routing"]) == (None, None)


def test_the_version_of_an_alias_is_0_unless_given_and_has_two_names(user: User, target: str, name: str) -> None:
    path = f"/v1/aliases/{name}"
    for given, version in (
        ({}, 0),
        ({"function_version": None, "description": None}, 0),
        ({"version": 1}, 1),  # as the reference's table has it
        ({"version": "2"}, 2),
        ({"version": 2, "function_version": 2}, 2),
    ):
        made = user.made("/v1/aliases", name=name, function_id=target, **given)
        assert (made["function_version"], made["description"]) == (version, None)
        assert user.delete(path).status_code == 204
    both = user.post("/v1/aliases", name=name, function_id=target, version=1, function_version=2)
    error(both, 400, "function_version", field="version")


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"name": None}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"name": "x" * 256}, 400, "name"),
        ({"name": "a/b"}, 400, "name"),
        ({"name": "a\tb"}, 400, "name"),
        ({"function_id": None}, 400, "function_id"),
        ({"function_id": "hello"}, 400, "function_id"),
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"version": 9}, 404, "function_version"),
        ({"function_version": -1}, 400, "function_version"),
        ({"description": "x" * 256}, 400, "description"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_an_alias_that_makes_no_sense_is_refused(
    user: User, target: str, name: str, fields: dict[str, Any], status: int, field: str
) -> None:
    given = {"name": name, "function_id": target} | fields
    error(user.post("/v1/aliases", **given), status, field=field)
    assert user.get("/v1/aliases", params={"function_id": target}).json() == []


def test_a_name_that_is_taken_is_a_conflict(user: User, target: str, name: str) -> None:
    user.made("/v1/aliases", name=name, function_id=target)
    error(user.post("/v1/aliases", name=name, function_id=target, function_version=1), 409, field="name")


def test_one_version_may_have_several_aliases(user: User, target: str, name: str) -> None:
    user.made("/v1/aliases", name=name, function_id=target, function_version=1)
    second = user.alias(target, function_version=1)
    assert user.delete(f"/v1/aliases/{second}").status_code == 204


def test_GET_v1_aliases_answers_200(user: User, target: str) -> None:
    names = [user.alias(target, function_version=number) for number in (2, 1)]
    answer = user.get("/v1/aliases", params={"function_id": target})
    assert answer.status_code == 200
    check_all(ALIAS, answer.json())
    assert [row["name"] for row in answer.json()] == names
    for made in names:
        assert user.delete(f"/v1/aliases/{made}").status_code == 204


def test_GET_v1_aliases_name_answers_200(user: User, target: str, name: str) -> None:
    made = user.made("/v1/aliases", name=name, function_id=target, function_version=2)
    answer = user.get(f"/v1/aliases/{name}")
    assert answer.status_code == 200
    check(ALIAS, answer.json())
    assert answer.json() == made
    error(user.get("/v1/aliases/no%20such"), 404, "no such")


NAMES = ["a b", "a+b", "v1.2", "50%", "größe", "…", "a%2Fb", "'\"", "null", "a?b#c", "v1", "&="]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_any_text_without_a_slash(user: User, target: str, name: str) -> None:
    answer = user.post("/v1/aliases", name=name, function_id=target)
    assert answer.status_code == 201, answer.text
    path = f"/v1/aliases/{quote(name, safe='')}"
    assert user.get(answer.headers["Location"].removeprefix(user.url)).json() == answer.json()
    assert user.get(path).json() == answer.json()
    updated = user.put(path, description="found")
    assert (updated.status_code, updated.json()["name"]) == (202, name)
    assert user.made("/v1/executions", function_alias=name)["function_alias"] == name
    no_body(user.delete(path), 204)
    error(user.get(path), 404)


@pytest.mark.parametrize("name", ["a b", "a+b", "v1.2", "größe"])
def test_a_name_arrives_unescaped_too(user: User, target: str, name: str) -> None:
    """As the reference client sends it, but for what no request line can hold."""
    user.made("/v1/aliases", name=name, function_id=target)
    path = f"/v1/aliases/{quote(name, safe='+.')}"
    assert user.get(path).json()["name"] == name
    no_body(user.delete(path), 204)


def test_a_path_with_text_that_is_no_name_is_refused(user: User) -> None:
    for method in ("GET", "PUT", "DELETE"):
        error(user.send(method, "/v1/aliases/a%00b"), 400, "NUL")
        error(user.send(method, "/v1/aliases/%FF%FE"), 404)
        error(user.send(method, "/v1/aliases/a%2Fb"), 404)


def test_PUT_v1_aliases_name_answers_202(user: User, target: str, name: str) -> None:
    made = user.made("/v1/aliases", name=name, function_id=target, function_version=1)
    given = {"function_id": target, "function_version": 2, "description": "version 2 of a test"}
    path = f"/v1/aliases/{name}"
    answer = user.put(path, **given)
    assert answer.status_code == 202
    located(user, answer, path)
    updated = answer.json()
    check(ALIAS, updated)
    assert updated == made | given | {"updated_at": updated["updated_at"]}
    assert updated["updated_at"] is not None
    assert user.get(path).json() == updated
    error(user.put("/v1/aliases/no%20such", description="d"), 404, "no such")


def test_the_name_of_an_alias_can_not_change(user: User, target: str, name: str) -> None:
    """The reference's example sends the name along, in its table it is no field of the body."""
    user.made("/v1/aliases", name=name, function_id=target)
    path = f"/v1/aliases/{name}"
    answer = user.put(path, function_id=target, name=name, function_version=2, description="d")
    assert (answer.status_code, answer.json()["function_version"]) == (202, 2)
    error(user.put(path, name="another"), 400, field="name")


def test_an_update_of_an_alias_ignores_nulls(user: User, target: str, name: str) -> None:
    made = user.made("/v1/aliases", name=name, function_id=target, function_version=1, description="d")
    path = f"/v1/aliases/{name}"
    for answer in (
        user.put(path, function_id=None, function_version=None, description=None),
        user.put(path),
        user.send("PUT", path),
    ):
        assert (answer.status_code, answer.json()) == (202, made)
        located(user, answer, path)


def test_another_function_without_a_version_means_its_version_0(user: User, target: str, name: str) -> None:
    user.made("/v1/aliases", name=name, function_id=target, function_version=1)
    other = user.function()
    updated = user.put(f"/v1/aliases/{name}", function_id=other).json()
    assert (updated["function_id"], updated["function_version"]) == (other, 0)
    back = user.put(f"/v1/aliases/{name}", function_id=target, version=2).json()
    assert (back["function_id"], back["function_version"]) == (target, 2)


@pytest.mark.parametrize(
    ("fields", "status", "field"),
    [
        ({"function_id": NOBODY}, 404, "function_id"),
        ({"function_version": 9}, 404, "function_version"),
        ({"function_version": "one"}, 400, "function_version"),
        ({"version": 1, "function_version": 2}, 400, "version"),
        ({"colour": "red"}, 400, "colour"),
    ],
)
def test_an_update_that_makes_no_sense_is_refused(
    user: User, target: str, name: str, fields: dict[str, Any], status: int, field: str
) -> None:
    made = user.made("/v1/aliases", name=name, function_id=target, function_version=1)
    error(user.put(f"/v1/aliases/{name}", **fields), status, field=field)
    assert user.get(f"/v1/aliases/{name}").json() == made


def test_DELETE_v1_aliases_name_answers_204(user: User, target: str, name: str) -> None:
    user.made("/v1/aliases", name=name, function_id=target)
    path = f"/v1/aliases/{name}"
    no_body(user.delete(path), 204)
    for answer in (user.get(path), user.put(path, description="d"), user.delete(path)):
        error(answer, 404, name)
    error(user.post("/v1/executions", function_alias=name), 404, field="function_alias")


def test_an_alias_that_is_named_is_not_deleted(user: User, target: str, name: str) -> None:
    user.made("/v1/aliases", name=name, function_id=target)
    path = f"/v1/aliases/{name}"
    webhook = user.made("/v1/webhooks", function_alias=name)["id"]
    error(user.delete(path), 403, "in use", webhook)
    assert user.delete(f"/v1/webhooks/{webhook}").status_code == 204
    job = user.made("/v1/jobs", function_alias=name, pattern="0 0 1 1 *")["id"]
    for status in ("running", "paused"):
        assert user.put(f"/v1/jobs/{job}", status=status).status_code == 202
        error(user.delete(path), 403, "in use", job)
    assert user.put(f"/v1/jobs/{job}", status="cancelled").status_code == 202
    no_body(user.delete(path), 204)


def test_a_routing_sends_a_share_of_calls_to_another_version(user: User, target: str, name: str) -> None:
    given = {"function_id": target, "function_version": 1, "routing": {"2": 1}}
    made = user.made("/v1/aliases", name=name, **given)
    check(ALIAS, made)
    assert json.dumps(made["routing"]) == '{"2": 1.0}'
    assert user.made("/v1/executions", function_alias=name)["function_version"] == 2
    path = f"/v1/aliases/{name}"
    for wrong, status in (({"9": 0.5}, 404), ({"1": 0.5}, 400), ({"2": 1.5}, 400), ({"2": 0.1, "0": 0.1}, 400)):
        error(user.put(path, routing=wrong), status, field="routing")
    assert user.put(path, routing={}).json()["routing"] is None
    assert user.made("/v1/executions", function_alias=name)["function_version"] == 1
