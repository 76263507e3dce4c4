"""Runtimes: made, shown, changed and deleted in the row; the pool manager does the rest."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import replace

import pytest

from qinling_falcon.api import create_app
from qinling_falcon.models import runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from qinling_falcon.pool.registry import Registry
from qinling_falcon.resources.services import Services
from tests.api.client import REFERENCE_CLIENT, Client, assert_error

FIELDS = {
    "id", "name", "description", "image", "is_public", "trusted", "status", "status_reason", "isolation",
    "project_id", "created_at", "updated_at",
}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def test_a_new_runtime_is_being_created_and_public_and_trusted(client: Client) -> None:
    answer = client.simulate_post("/v1/runtimes", json={"image": "python3"})

    assert answer.status_code == 201
    row = answer.json
    assert set(row) == FIELDS
    assert (row["status"], row["is_public"], row["trusted"], row["name"]) == ("creating", True, True, None)
    assert row["project_id"] == "default"
    assert TIME.fullmatch(row["created_at"])
    assert row["updated_at"] is None
    assert answer.headers["location"].endswith(f"/v1/runtimes/{row['id']}")
    assert client.simulate_get(f"/v1/runtimes/{row['id']}").json == row
    assert client.simulate_get("/v1/runtimes").json == [row]


def test_a_new_runtime_wakes_the_pool_manager(client: Client, woken: Callable[[], bool]) -> None:
    assert not woken()
    client.runtime(available=False)
    assert woken()


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "image"),
        ({"image": ""}, "image"),
        ({"image": 5}, "image"),
        ({"image": "x" * 256}, "image"),
        ({"image": "i", "name": "x" * 256}, "name"),
        ({"image": "i", "is_public": "perhaps"}, "is_public"),
        ({"image": "i", "trusted": 7}, "trusted"),
        ({"image": "i", "is_public:": True}, "is_public:"),
        ({"image": "i", "colour": None}, "colour"),
    ],
)
def test_a_runtime_that_makes_no_sense_is_refused_naming_the_field(client: Client, body: object, word: str) -> None:
    answer = client.simulate_post("/v1/runtimes", json=body)
    assert_error(answer, 400, word)
    assert word in answer.json["errors"]
    assert client.simulate_get("/v1/runtimes").json == []


def test_nulls_count_as_not_given_and_the_reference_client_may_send_more(client: Client) -> None:
    body = {"image": "i", "name": None, "is_public": None, "trusted": "False", "colour": "red"}
    answer = client.simulate_post("/v1/runtimes", json=body, headers=REFERENCE_CLIENT)
    assert answer.status_code == 201
    assert (answer.json["is_public"], answer.json["trusted"]) == (True, False)


def test_name_and_description_change_at_any_time(client: Client) -> None:
    runtime_id = client.runtime(available=False)
    answer = client.simulate_put(f"/v1/runtimes/{runtime_id}", json={"name": "n", "description": "d"})
    assert answer.status_code == 200
    assert (answer.json["name"], answer.json["description"], answer.json["status"]) == ("n", "d", "creating")
    assert TIME.fullmatch(answer.json["updated_at"])


def test_an_update_with_nothing_to_change_answers_with_the_runtime(client: Client) -> None:
    runtime_id = client.runtime()
    shown = client.simulate_get(f"/v1/runtimes/{runtime_id}").json
    answer = client.send("PUT", f"/v1/runtimes/{runtime_id}", content_type=None)
    assert (answer.status_code, answer.json) == (200, shown)


def test_another_image_is_tried_from_available_only(client: Client, woken: Callable[[], bool]) -> None:
    runtime_id = client.runtime()
    assert woken()
    answer = client.simulate_put(f"/v1/runtimes/{runtime_id}", json={"image": "other"})
    assert (answer.status_code, answer.json["status"]) == (200, "upgrading")
    assert woken()
    assert_error(client.simulate_put(f"/v1/runtimes/{runtime_id}", json={"image": "third"}), 409, "upgrading")


@pytest.mark.parametrize("field", ["is_public", "trusted", "status"])
def test_what_can_not_change_is_refused(client: Client, field: str) -> None:
    assert_error(client.simulate_put(f"/v1/runtimes/{client.runtime()}", json={field: True}), 400, field)


def test_a_deleted_runtime_is_shown_until_its_workers_are_gone(client: Client, woken: Callable[[], bool]) -> None:
    runtime_id = client.runtime()
    assert woken()
    for _ in range(2):
        answer = client.simulate_delete(f"/v1/runtimes/{runtime_id}")
        assert (answer.status_code, answer.content) == (204, b"")
        assert woken()
    assert client.simulate_get(f"/v1/runtimes/{runtime_id}").json["status"] == "deleting"
    assert runtime.remove(runtime_id)
    assert_error(client.simulate_get(f"/v1/runtimes/{runtime_id}"), 404)


def test_a_runtime_that_a_function_uses_stays(client: Client) -> None:
    function = client.function()
    assert_error(client.simulate_delete(f"/v1/runtimes/{function['runtime_id']}"), 403, "in use")
    assert client.simulate_get(f"/v1/runtimes/{function['runtime_id']}").json["status"] == "available"


def test_the_pool_counts_all_workers_and_those_that_hold_no_function(client: Client, registry: Registry) -> None:
    runtime_id = client.runtime()
    registry.configure(runtime_id, warm=3)
    answer = client.simulate_get(f"/v1/runtimes/{runtime_id}/pool")
    assert answer.status_code == 200
    assert answer.json == {"name": runtime_id, "capacity": {"total": 0, "available": 0}}


def test_a_runtime_without_a_pool_says_so(client: Client) -> None:
    assert_error(client.simulate_get(f"/v1/runtimes/{client.runtime()}/pool"), 404, "pool")
    assert_error(client.simulate_get(f"/v1/runtimes/{uuid.uuid4()}/pool"), 404)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_unknown_runtimes_are_not_found(client: Client, method: str) -> None:
    body = b'{"name": "n"}' if method == "PUT" else b""
    assert_error(client.send(method, f"/v1/runtimes/{uuid.uuid4()}", body), 404, "runtime")


def test_runtimes_of_other_projects_are_listed_when_they_are_public(client: Client) -> None:
    theirs = Context("theirs")
    public = runtime.create(theirs, image="i", is_public=True)
    runtime.create(theirs, image="i", is_public=False)
    assert [row["id"] for row in client.simulate_get("/v1/runtimes").json] == [public.id]


def test_without_redis_a_runtime_is_made_and_deleted_all_the_same(services: Services, lonely_pool: Pool) -> None:
    client = Client(create_app(replace(services, pool=lonely_pool)), services.settings)
    runtime_id = client.runtime()
    assert client.simulate_delete(f"/v1/runtimes/{runtime_id}").status_code == 204
    assert client.simulate_get(f"/v1/runtimes/{runtime_id}").json["status"] == "deleting"


def test_settings_reach_the_location(client_with: Callable[..., Client]) -> None:
    answer = client_with(public_endpoint="https://engine.example/qinling/").simulate_post(
        "/v1/runtimes", json={"image": "i"}
    )
    assert answer.headers["location"].startswith("https://engine.example/qinling/v1/runtimes/")
