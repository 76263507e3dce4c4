"""`concurrency` and `min_warm` of functions and versions."""

from __future__ import annotations

import pytest

from qinling_falcon.invocation.loading import lease_request
from qinling_falcon.invocation.targets import Resolver
from qinling_falcon.models import function as functions
from qinling_falcon.models import version as versions
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from tests.api.client import REFERENCE_CLIENT, Client, assert_error

CALLER = Context("default")


@pytest.fixture
def resolver(pool: Pool) -> Resolver:
    """A resolver whose cache is kept while a test makes changes."""
    return Resolver(pool)


def path_of(function_id: str) -> str:
    return f"/v1/functions/{function_id}"


def limit_of_calls(client: Client, resolver: Resolver, function_id: str, version: int = 0) -> int | None:
    """The limit that the pool is told at a call."""
    target = resolver.resolve(CALLER, function_id, version)
    return lease_request(target, client.settings, "e", "", 1.0).concurrency


def test_without_them_only_the_limits_of_the_service_apply(client: Client) -> None:
    made = client.function()

    assert (made["concurrency"], made["min_warm"]) == (None, 0)


def test_they_are_taken_from_forms_and_json(client: Client) -> None:
    made = client.function(concurrency=4, min_warm=1)
    assert (made["concurrency"], made["min_warm"]) == (4, 1)

    changed = client.simulate_put(path_of(made["id"]), json={"concurrency": 5, "min_warm": 2}).json
    assert (changed["concurrency"], changed["min_warm"]) == (5, 2)
    changed = client.form("PUT", path_of(made["id"]), [("concurrency", "3"), ("min_warm", "")]).json
    assert (changed["concurrency"], changed["min_warm"]) == (3, 2)

    shown = client.simulate_get(path_of(made["id"])).json
    assert (shown["concurrency"], shown["min_warm"]) == (3, 2)


def test_null_removes_the_limit_and_keeps_the_workers(client: Client) -> None:
    function_id = client.function(concurrency=4, min_warm=1)["id"]

    changed = client.simulate_put(path_of(function_id), json={"concurrency": None, "min_warm": None}).json

    assert (changed["concurrency"], changed["min_warm"]) == (None, 1)


def test_an_update_of_something_else_keeps_them(client: Client) -> None:
    function_id = client.function(concurrency=4, min_warm=1)["id"]

    changed = client.simulate_put(path_of(function_id), json={"timeout": 9}).json

    assert (changed["concurrency"], changed["min_warm"]) == (4, 1)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("concurrency", 0, "from 1 to"),
        ("concurrency", -1, "from 1 to"),
        ("concurrency", 2**31, "from 1 to"),
        ("concurrency", 1.5, "whole number"),
        ("concurrency", True, "whole number"),
        ("concurrency", "many", "whole number"),
        ("min_warm", -1, "from 0 to"),
        ("min_warm", [1], "whole number"),
    ],
)
def test_other_values_are_refused(client: Client, field: str, value: object, said: str) -> None:
    path = path_of(client.function()["id"])

    assert_error(client.simulate_put(path, json={field: value}), 400, field, said)


def test_no_more_workers_can_be_kept_than_calls_can_run(client: Client) -> None:
    said = "must not be greater than the function's concurrency, which is 2"
    assert_error(client.upload(concurrency=2, min_warm=3), 400, "min_warm", said)
    path = path_of(client.function(concurrency=2, min_warm=2)["id"])

    assert_error(client.simulate_put(path, json={"min_warm": 3}), 400, "min_warm", said)
    assert_error(client.simulate_put(path, json={"concurrency": 1}), 400, "min_warm")
    assert client.simulate_put(path, json={"concurrency": 3, "min_warm": 3}).status_code == 200


def test_the_pool_is_told_the_limit(client: Client, resolver: Resolver) -> None:
    assert limit_of_calls(client, resolver, client.function()["id"]) is None
    assert limit_of_calls(client, resolver, client.function(concurrency=7)["id"]) == 7


def test_a_change_replaces_the_generation_and_no_worker(client: Client, resolver: Resolver, pool: Pool) -> None:
    function_id = client.function(concurrency=4)["id"]
    before = resolver.resolve(CALLER, function_id, 0)

    assert client.simulate_put(path_of(function_id), json={"concurrency": 5}).status_code == 200

    assert pool.generations([f"function:{function_id}"]) != dict(before.generations)
    resolver.forget(before)
    after = resolver.resolve(CALLER, function_id, 0)
    assert (after.concurrency, after.key) == (5, before.key)


def test_a_version_keeps_what_its_function_had(client: Client, resolver: Resolver) -> None:
    function_id = client.function(concurrency=4, min_warm=1)["id"]
    assert client.simulate_post(f"{path_of(function_id)}/versions", json={}).status_code == 201

    assert client.simulate_put(path_of(function_id), json={"concurrency": None, "min_warm": 0}).status_code == 200

    assert limit_of_calls(client, resolver, function_id, 1) == 4
    assert limit_of_calls(client, resolver, function_id, 0) is None
    assert (versions.get(CALLER, function_id, 1).min_warm, functions.get(CALLER, function_id).min_warm) == (1, 0)


@pytest.mark.parametrize("change", [{"concurrency": 2}, {"min_warm": 1}])
def test_a_change_of_them_allows_a_new_version(client: Client, change: dict[str, int]) -> None:
    path = path_of(client.function()["id"])
    assert client.simulate_post(f"{path}/versions", json={}).status_code == 201
    assert_error(client.simulate_post(f"{path}/versions", json={}), 403, "has not changed")

    assert client.simulate_put(path, json=change).status_code == 200

    assert client.simulate_post(f"{path}/versions", json={}).status_code == 201


def test_functions_can_be_found_by_them(client: Client) -> None:
    client.function()
    found = client.function(concurrency=4, min_warm=1)["id"]

    for query in ("concurrency=4", "min_warm=gt:0"):
        assert [row["id"] for row in client.simulate_get(f"/v1/functions?{query}").json] == [found]


def test_they_can_change_while_a_job_names_the_function(client: Client) -> None:
    function_id = client.function()["id"]
    job = {"function_id": function_id, "pattern": "0 0 * * *", "name": "n"}
    assert client.simulate_post("/v1/jobs", json=job).status_code == 201

    assert client.simulate_put(path_of(function_id), json={"concurrency": 2, "min_warm": 1}).status_code == 200
    assert client.simulate_put(path_of(function_id), json={"cpu": 200}).status_code == 403


def test_a_function_from_an_image_has_a_concurrency_and_no_kept_workers(client: Client) -> None:
    body = {"name": "n", "code": {"source": "image", "image": "i"}}
    assert_error(client.simulate_post("/v1/functions", json=body | {"min_warm": 1}), 400, "min_warm", "image")
    made = client.simulate_post("/v1/functions", json=body | {"concurrency": 3}).json
    assert (made["concurrency"], made["min_warm"]) == (3, 0)

    assert_error(client.simulate_put(path_of(made["id"]), json={"min_warm": 1}), 400, "min_warm")
    assert client.simulate_put(path_of(made["id"]), json={"concurrency": 4}).json["concurrency"] == 4


def test_kept_workers_have_a_quota(client: Client) -> None:
    assert client.simulate_put("/v1/quotas", json={"kept_workers": 2}).status_code == 200
    path = path_of(client.function(min_warm=1)["id"])

    assert_error(client.upload(min_warm=2), 403, "kept_workers: limit 2, used 1, and this request adds 2")
    assert_error(client.simulate_put(path, json={"min_warm": 3}), 403, "kept_workers")
    assert client.simulate_put(path, json={"min_warm": 2}).status_code == 200
    assert client.simulate_get("/v1/quotas").json["quotas"]["kept_workers"] == {"limit": 2, "used": 2}


def test_the_reference_client_neither_sends_nor_misses_them(client: Client) -> None:
    made = client.upload(headers=REFERENCE_CLIENT).json

    answer = client.simulate_put(path_of(made["id"]), json={"timeout": 9}, headers=REFERENCE_CLIENT)

    assert (answer.status_code, answer.json["concurrency"], answer.json["min_warm"]) == (200, None, 0)
