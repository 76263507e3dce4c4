"""Versions: numbered snapshots of a function that nothing changes."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.api import create_app
from qinling_falcon.models import function
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.services import Services
from tests.api.client import REFERENCE_CLIENT, Client, assert_error, package

OTHER = package("def main():\n    return 'other'\n")


@pytest.fixture
def function_id(client: Client) -> str:
    return str(client.function()["id"])


def make(client: Client, function_id: str, **fields: Any) -> testing.Result:
    return client.simulate_post(f"/v1/functions/{function_id}/versions", json=fields)


def change(client: Client, function_id: str, **fields: Any) -> None:
    parts = [(name, value if isinstance(value, bytes) else str(value)) for name, value in fields.items()]
    assert client.form("PUT", f"/v1/functions/{function_id}", parts).status_code == 200


def test_a_version_is_numbered_and_shown(client: Client, function_id: str) -> None:
    answer = make(client, function_id, description="first")
    assert answer.status_code == 201, answer.text
    row = answer.json
    assert set(row) == {
        "id", "function_id", "version_number", "description", "count", "project_id", "created_at", "updated_at",
    }  # fmt: skip
    assert (row["function_id"], row["version_number"], row["count"]) == (function_id, 1, 0)
    assert (row["description"], row["updated_at"]) == ("first", None)
    path = f"/v1/functions/{function_id}/versions/1"
    assert answer.headers["location"].endswith(path)
    assert client.simulate_get(path).json == row
    shown = client.simulate_get(f"/v1/functions/{function_id}").json
    assert (shown["latest_version"], shown["updated_at"]) == (1, None)


def test_versions_are_listed_bare_and_in_the_client_s_envelope(client: Client, function_id: str) -> None:
    first = make(client, function_id).json
    change(client, function_id, timeout=9)
    second = make(client, function_id).json
    path = f"/v1/functions/{function_id}/versions"
    assert client.simulate_get(path).json == [first, second]
    assert client.simulate_get(path, headers=REFERENCE_CLIENT).json == {"function_versions": [first, second]}
    assert client.simulate_get(path, params={"version_number": "gt:1"}).json == [second]
    down = {"sort_key": "version_number", "sort_dir": "desc", "limit": "1"}
    answer = client.simulate_get(path, params=down)
    assert answer.json == [second]
    assert f"marker={second['id']}" in answer.headers["link"]
    other = client.function()["id"]
    assert client.simulate_get(f"/v1/functions/{other}/versions").json == []


def test_a_version_needs_a_change_of_what_it_fixes(client: Client, function_id: str) -> None:
    assert make(client, function_id).status_code == 201
    assert_error(make(client, function_id), 403, "has not changed since its version 1")
    change(client, function_id, name="another", description="another")
    assert_error(make(client, function_id), 403, "has not changed")
    change(client, function_id, package=package())  # the same bytes
    assert_error(make(client, function_id), 403, "has not changed")
    changes: list[dict[str, Any]] = [
        {"package": OTHER}, {"entry": "main.other"}, {"cpu": 200}, {"memory_size": 67108864}, {"timeout": 9},
        {"runtime_id": client.runtime()},
    ]  # fmt: skip
    for number, fields in enumerate(changes, start=2):
        change(client, function_id, **fields)
        assert make(client, function_id).json["version_number"] == number
        assert_error(make(client, function_id), 403, "has not changed")


def test_a_function_has_so_many_versions_at_most(client: Client, services: Services) -> None:
    few = Client(create_app(replace(services, settings=replace(services.settings, max_versions=2))), services.settings)
    function_id = few.function()["id"]
    for timeout in (5, 6):
        change(few, function_id, timeout=timeout)
        assert make(few, function_id).status_code == 201
    change(few, function_id, timeout=7)
    assert_error(make(few, function_id), 403, "2 versions already")
    assert few.simulate_delete(f"/v1/functions/{function_id}/versions/1").status_code == 204
    assert make(few, function_id).json["version_number"] == 3


def test_a_number_is_never_used_again(client: Client, function_id: str) -> None:
    assert make(client, function_id).json["version_number"] == 1
    assert client.simulate_delete(f"/v1/functions/{function_id}/versions/1").status_code == 204
    assert_error(client.simulate_get(f"/v1/functions/{function_id}/versions/1"), 404, "version 1")
    assert make(client, function_id).json["version_number"] == 2
    assert client.simulate_get(f"/v1/functions/{function_id}").json["latest_version"] == 2


def test_only_functions_from_packages_have_versions(client: Client) -> None:
    image = client.simulate_post("/v1/functions", json={"name": "i", "code": {"source": "image", "image": "a/b"}})
    assert_error(make(client, image.json["id"]), 403, "package")


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"description": "x" * 256}, 400, "description"),
        ({"description": 7}, 400, "description"),
        ({"version_number": 3}, 400, "Unknown field: version_number"),
        ([], 400, "object"),
    ],
)
def test_what_makes_no_sense_is_refused(client: Client, function_id: str, body: Any, status: int, word: str) -> None:
    answer = client.simulate_post(f"/v1/functions/{function_id}/versions", json=body)
    assert_error(answer, status, word)
    assert client.simulate_get(f"/v1/functions/{function_id}/versions").json == []


def test_an_empty_body_and_the_reference_client_s_nulls_make_a_version(client: Client, function_id: str) -> None:
    assert client.send("POST", f"/v1/functions/{function_id}/versions", b"", None).status_code == 201
    change(client, function_id, timeout=9)
    assert make(client, function_id, description=None).status_code == 201


@pytest.mark.parametrize("number", ["one", "-1", "1.0", "01", "99999999999", "\N{ARABIC-INDIC DIGIT ONE}"])
def test_a_version_that_is_no_number_is_said_so(client: Client, function_id: str, number: str) -> None:
    for path in ("", "/detach", "/scale_up"):
        method = "POST" if path else "GET"
        answer = client.simulate_request(method, f"/v1/functions/{function_id}/versions/{number}{path}")
        assert_error(answer, 400, "version number")


def test_unknown_functions_and_versions_are_404(client: Client, function_id: str) -> None:
    nobody = str(uuid.uuid4())
    paths = [f"{nobody}/versions", f"{nobody}/versions/1", f"{function_id}/versions/1", f"{function_id}/versions/0"]
    for path in paths:
        assert_error(client.simulate_get(f"/v1/functions/{path}"), 404, "not found")
    assert_error(make(client, nobody), 404, "not found")
    assert_error(client.simulate_delete(f"/v1/functions/{function_id}/versions/1"), 404, "not found")


def test_a_version_s_package_stays_as_it_was_and_goes_with_the_last_that_has_it(
    client: Client, function_id: str
) -> None:
    make(client, function_id)
    make_path = f"/v1/functions/{function_id}/versions"
    assert len(client.stored()) == 1  # one file serves both
    change(client, function_id, package=OTHER)
    assert len(client.stored()) == 2
    answer = client.simulate_get(f"{make_path}/1", params={"download": "true"})
    assert (answer.status_code, answer.content) == (200, package())
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{function_id}_1.zip"'
    assert client.simulate_get(f"/v1/functions/{function_id}", params={"download": "true"}).content == OTHER
    assert client.simulate_delete(f"{make_path}/1").status_code == 204
    assert len(client.stored()) == 1


def test_a_deleted_version_leaves_the_function_s_package(client: Client, function_id: str) -> None:
    make(client, function_id)
    assert client.simulate_delete(f"/v1/functions/{function_id}/versions/1").status_code == 204
    assert client.simulate_get(f"/v1/functions/{function_id}", params={"download": "true"}).content == package()


def test_versions_go_with_their_function(client: Client, function_id: str) -> None:
    make(client, function_id)
    change(client, function_id, package=OTHER)
    make(client, function_id)
    assert client.simulate_delete(f"/v1/functions/{function_id}").status_code == 204
    assert client.stored() == set()
    assert_error(client.simulate_get(f"/v1/functions/{function_id}/versions/1"), 404, "not found")


def test_a_version_keeps_its_runtime_from_going(client: Client) -> None:
    old, new = client.runtime(), client.runtime()
    function_id = client.function(runtime_id=old)["id"]
    make(client, function_id)
    change(client, function_id, runtime_id=new)
    assert_error(client.simulate_delete(f"/v1/runtimes/{old}"), 403, "in use")
    assert client.simulate_delete(f"/v1/functions/{function_id}/versions/1").status_code == 204
    assert client.simulate_delete(f"/v1/runtimes/{old}").status_code == 204


def test_versions_in_use_can_not_be_deleted(client: Client, function_id: str) -> None:
    """By an alias that means one, or that sends a share of its calls there; webhooks and jobs: see their tests."""
    for timeout in (6, 7, 8):
        change(client, function_id, timeout=timeout)
        make(client, function_id)
    alias = {"name": "prod", "function_id": function_id, "function_version": 1, "routing": {"2": 0.5}}
    assert client.simulate_post("/v1/aliases", json=alias).status_code == 201
    for number in (1, 2):
        answer = client.simulate_delete(f"/v1/functions/{function_id}/versions/{number}")
        assert_error(answer, 403, "in use", "alias 'prod'")
    assert_error(client.simulate_delete(f"/v1/functions/{function_id}"), 403, "in use", "alias 'prod'")
    assert client.simulate_delete(f"/v1/functions/{function_id}/versions/3").status_code == 204
    assert client.simulate_delete("/v1/aliases/prod").status_code == 204
    for number in (1, 2):
        assert client.simulate_delete(f"/v1/functions/{function_id}/versions/{number}").status_code == 204


def test_calls_of_a_version_count_for_it_alone(client: Client, function_id: str) -> None:
    make(client, function_id)
    call = {"function_id": function_id, "function_version": 1}
    for _ in range(3):
        assert client.simulate_post("/v1/executions", json=call).json["function_version"] == 1
    client.simulate_post("/v1/executions", json={"function_id": function_id})
    assert client.simulate_get(f"/v1/functions/{function_id}/versions/1").json["count"] == 3
    assert client.simulate_get(f"/v1/functions/{function_id}").json["count"] == 1


def test_a_deleted_version_is_not_called_again(client: Client, function_id: str) -> None:
    make(client, function_id)
    call = {"function_id": function_id, "function_version": 1}
    execution = client.simulate_post("/v1/executions", json=call).json
    client.simulate_delete(f"/v1/functions/{function_id}/versions/1")
    assert_error(client.simulate_post("/v1/executions", json=call), 404, "function_version", "version 1")
    assert client.simulate_get(f"/v1/executions/{execution['id']}").json["function_version"] == 1


def test_nothing_is_deleted_while_the_pool_can_not_be_told(
    client: Client, services: Services, lonely_pool: Pool, function_id: str
) -> None:
    make(client, function_id)
    lonely = Client(create_app(replace(services, pool=lonely_pool)), services.settings)
    assert_error(lonely.simulate_delete(f"/v1/functions/{function_id}/versions/1"), 503)
    assert client.simulate_get(f"/v1/functions/{function_id}/versions/1").status_code == 200


def test_an_admin_sees_another_project_s_versions_and_changes_none(client: Client) -> None:
    theirs = function.create(
        Context("theirs"), name="n", runtime_id=client.runtime(), code={"source": "package", "md5sum": "0" * 32},
        entry="main.main", cpu=100, memory_size=33554432, timeout=5, package_key="k",
    )  # fmt: skip
    assert client.simulate_get(f"/v1/functions/{theirs.id}/versions").json == []
    assert_error(make(client, theirs.id), 403, "owner")
