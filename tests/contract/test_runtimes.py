"""`/v1/runtimes`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.service import NOBODY, User, error, located, no_body
from tests.contract.shapes import RUNTIME, check, check_all
from tests.integration.service import wait_until

pytestmark = pytest.mark.xdist_group("contract")

PYTHON = "openstackqinling/python3-runtime"


def wait_for(user: User, runtime_id: str, status: str) -> dict[str, Any]:
    """The runtime, once it has this status."""

    def there() -> dict[str, Any] | None:
        row: dict[str, Any] = user.get(f"/v1/runtimes/{runtime_id}").json()
        return row if row["status"] == status else None

    return dict(wait_until(f"runtime {runtime_id} is {status}", there))


@pytest.fixture(scope="module")
def second(user: User) -> Iterator[str]:
    """A runtime that is available, and that no function uses; it is deleted in the end."""
    runtime_id = user.made("/v1/runtimes", image=PYTHON, name="second", description="of a test")["id"]
    wait_for(user, runtime_id, "available")
    yield runtime_id
    assert user.delete(f"/v1/runtimes/{runtime_id}").status_code == 204


@pytest.fixture
def broken(user: User) -> str:
    """A runtime whose image nobody knows."""
    return str(user.made("/v1/runtimes", image="no/such-image")["id"])


def test_POST_v1_runtimes_answers_201(user: User) -> None:
    given = {"name": "python3", "description": "of a test", "image": PYTHON, "is_public": True, "trusted": True}
    answer = user.post("/v1/runtimes", **given)
    assert answer.status_code == 201
    made = answer.json()
    located(user, answer, f"/v1/runtimes/{made['id']}")
    check(RUNTIME, made)
    assert {name: made[name] for name in given} == given
    assert (made["status"], made["updated_at"]) == ("creating", None)
    wait_for(user, made["id"], "available")
    assert user.delete(f"/v1/runtimes/{made['id']}").status_code == 204


def test_what_is_left_out_of_a_runtime_has_its_default(user: User) -> None:
    for nulls in ({}, {"name": None, "description": None, "is_public": None, "trusted": None}):
        made = user.made("/v1/runtimes", image="no/such-image", **nulls)
        assert (made["name"], made["description"], made["is_public"], made["trusted"]) == (None, None, True, True)


def test_flags_of_a_runtime_come_as_text_too(user: User) -> None:
    for off in (False, "False", "false", "0", "no"):
        made = user.made("/v1/runtimes", image="no/such-image", is_public=off, trusted=off)
        assert (made["is_public"], made["trusted"]) == (False, False)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "image"),
        ({"image": None}, "image"),
        ({"image": ""}, "image"),
        ({"image": 3}, "image"),
        ({"image": "i", "name": "x" * 256}, "name"),
        ({"image": "i", "description": "x" * 256}, "description"),
        ({"image": "i", "is_public": "perhaps"}, "is_public"),
        ({"image": "i", "is_public:": True}, "is_public:"),  # the misprint of the reference's example
        ({"image": "i", "status": "available"}, "status"),
    ],
)
def test_a_runtime_that_makes_no_sense_is_refused(user: User, fields: dict[str, Any], field: str) -> None:
    error(user.post("/v1/runtimes", **fields), 400, field=field)


def test_GET_v1_runtimes_answers_200(user: User, second: str) -> None:
    answer = user.get("/v1/runtimes")
    assert answer.status_code == 200
    check_all(RUNTIME, answer.json())
    assert answer.json()[0]["id"] == user.runtime_id()
    (row,) = user.get("/v1/runtimes", params={"id": second}).json()
    assert row == user.get(f"/v1/runtimes/{second}").json()


def test_GET_v1_runtimes_id_answers_200(user: User, second: str) -> None:
    answer = user.get(f"/v1/runtimes/{second}")
    assert answer.status_code == 200
    check(RUNTIME, answer.json())
    assert (answer.json()["id"], answer.json()["image"], answer.json()["name"]) == (second, PYTHON, "second")
    error(user.get(f"/v1/runtimes/{NOBODY}"), 404, NOBODY)


def test_GET_v1_runtimes_id_pool_answers_200(user: User, second: str) -> None:
    def filled() -> bool:
        answer = user.get(f"/v1/runtimes/{second}/pool")
        assert answer.status_code == 200
        assert answer.json().keys() == {"name", "capacity"}
        assert answer.json()["name"] == second
        capacity = answer.json()["capacity"]
        assert capacity.keys() == {"total", "available"}
        return bool(capacity == {"total": 2, "available": 2})  # all warm, for no function uses it

    wait_until("its workers are warm", filled)


def test_a_pool_counts_workers_that_hold_a_function_as_taken(user: User, function_id: str) -> None:
    user.made("/v1/executions", function_id=function_id)
    capacity = user.get(f"/v1/runtimes/{user.runtime_id()}/pool").json()["capacity"]
    assert 0 <= capacity["available"] < capacity["total"]


def test_a_runtime_without_a_pool_has_none(user: User, broken: str) -> None:
    wait_for(user, broken, "error")
    error(user.get(f"/v1/runtimes/{broken}/pool"), 404, broken)
    error(user.get(f"/v1/runtimes/{NOBODY}/pool"), 404, NOBODY)


def test_a_runtime_that_can_not_be_made_says_why(user: User, broken: str) -> None:
    assert "no/such-image" in wait_for(user, broken, "error")["status_reason"]


def test_PUT_v1_runtimes_id_answers_200(user: User, second: str) -> None:
    given = {"name": "python3", "description": "another one", "image": PYTHON}
    answer = user.put(f"/v1/runtimes/{second}", **given)
    assert answer.status_code == 200
    updated = answer.json()
    check(RUNTIME, updated)
    assert {name: updated[name] for name in given} == given
    assert updated["updated_at"] is not None
    assert updated["status"] == "available"  # the image is the same
    assert user.get(f"/v1/runtimes/{second}").json() == updated
    assert user.put(f"/v1/runtimes/{second}", name="second").json()["description"] == "another one"


def test_an_update_of_nothing_changes_nothing(user: User, second: str) -> None:
    before = user.get(f"/v1/runtimes/{second}").json()
    for answer in (
        user.put(f"/v1/runtimes/{second}"),
        user.put(f"/v1/runtimes/{second}", name=None, image=None, description=None),
        user.send("PUT", f"/v1/runtimes/{second}"),
    ):
        assert answer.status_code == 200
        assert answer.json() == before


def test_another_image_takes_over_and_a_failing_one_leaves_the_old(user: User, second: str) -> None:
    path = f"/v1/runtimes/{second}"
    answer = user.put(path, image="no/such-image")
    assert (answer.status_code, answer.json()["status"]) == (200, "upgrading")
    failed = wait_for(user, second, "available")
    assert failed["image"] == PYTHON
    assert "no/such-image" in failed["status_reason"]

    assert user.put(path, image="python3").json()["status"] == "upgrading"
    upgraded = wait_for(user, second, "available")
    assert (upgraded["image"], upgraded["status_reason"]) == ("python3", None)
    assert user.put(path, image=PYTHON).status_code == 200
    wait_for(user, second, "available")


def test_an_image_changes_only_while_the_runtime_is_available(user: User, broken: str) -> None:
    wait_for(user, broken, "error")
    error(user.put(f"/v1/runtimes/{broken}", image=PYTHON), 409, "error")
    assert user.put(f"/v1/runtimes/{broken}", name="renamed").status_code == 200


@pytest.mark.parametrize("field", ["is_public", "trusted", "status", "colour"])
def test_fields_that_an_update_can_not_change_are_refused(user: User, second: str, field: str) -> None:
    error(user.put(f"/v1/runtimes/{second}", **{field: True}), 400, field=field)


def test_DELETE_v1_runtimes_id_answers_204(user: User, broken: str) -> None:
    path = f"/v1/runtimes/{broken}"
    no_body(user.delete(path), 204)
    wait_until("it is gone", lambda: user.get(path).status_code == 404)
    error(user.delete(path), 404, broken)
    error(user.put(path, name="n"), 404, broken)


def test_a_runtime_that_a_function_uses_is_not_deleted(user: User, function_id: str) -> None:
    runtime_id = user.get(f"/v1/functions/{function_id}").json()["runtime_id"]
    error(user.delete(f"/v1/runtimes/{runtime_id}"), 403, "in use")
    assert user.get(f"/v1/runtimes/{runtime_id}").json()["status"] == "available"
