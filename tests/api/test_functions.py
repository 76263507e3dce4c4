"""Functions from packages: made, shown, listed, downloaded, deleted."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from qinling_falcon.api import create_app
from qinling_falcon.errors import Unavailable
from qinling_falcon.models import function, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources.services import Services
from tests.api.client import PACKAGE_MD5, REFERENCE_CLIENT, Client, assert_error, package

FIELDS = {
    "id", "name", "description", "runtime_id", "code", "entry", "cpu", "memory_size", "timeout",
    "isolation", "concurrency", "min_warm", "max_attempts", "backoff_s", "max_age_s", "on_success", "on_failure",
    "has_callback_secret", "count", "latest_version", "project_id", "created_at", "updated_at",
}  # fmt: skip


def test_a_new_function_has_the_defaults_and_the_sum_of_its_package(client: Client) -> None:
    answer = client.upload()

    assert answer.status_code == 201, answer.text
    row = answer.json
    assert set(row) == FIELDS
    assert row["code"] == {"source": "package", "md5sum": PACKAGE_MD5}
    assert (row["entry"], row["cpu"], row["memory_size"], row["timeout"]) == ("main.main", 100, 33554432, 5)
    assert (row["count"], row["latest_version"], row["updated_at"]) == (0, 0, None)
    assert answer.headers["location"].endswith(f"/v1/functions/{row['id']}")
    assert len(client.stored()) == 1


def test_the_code_is_text_where_functions_are_shown_and_listed(client: Client) -> None:
    made = client.function()
    shown = client.simulate_get(f"/v1/functions/{made['id']}").json
    assert json.loads(shown["code"]) == made["code"]
    assert shown | {"code": made["code"]} == made
    assert client.simulate_get("/v1/functions").json == [shown]


def test_numbers_come_as_text_and_memory_has_two_names(client: Client) -> None:
    row = client.function(cpu=250, memory=33000000, timeout=15, entry="hello_world.main", description="d")
    assert (row["cpu"], row["memory_size"], row["timeout"], row["entry"]) == (250, 33554432, 15, "hello_world.main")
    assert client.function(memory_size=67108864, memory=67108863)["memory_size"] == 67108864


def test_parts_come_in_any_order(client: Client) -> None:
    parts = client.parts()
    for order in (parts, parts[::-1], parts[2:] + parts[:2]):
        assert client.form("POST", "/v1/functions", order).status_code == 201


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"cpu": 99}, "cpu resource limitation not within the allowable range: 100 ~ 300(millicpu)."),
        ({"cpu": 301}, "cpu resource limitation"),
        ({"cpu": "many"}, "cpu"),
        ({"cpu": "1" * 500}, "cpu"),
        ({"memory": 134217729}, "memory resource limitation"),
        ({"memory_size": 1}, "memory resource limitation"),
        ({"memory": 33554432, "memory_size": 67108864}, "memory"),
        ({"timeout": 0}, "timeout resource limitation"),
        ({"timeout": 301}, "timeout resource limitation"),
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\0b"}, "nul"),
        ({"description": "x" * 256}, "description"),
        ({"entry": "main"}, "entry"),
        ({"entry": ".main"}, "entry"),
        ({"entry": "../x.main"}, "entry"),
        ({"entry": "a." + "x" * 80}, "entry"),
        ({"runtime_id": "seven"}, "Expected a uuid but received seven"),
        ({"code": "not json"}, "code"),
        ({"code": "[]"}, "code"),
        ({"code": "{}"}, "source"),
        ({"code": '{"source": "package", "colour": 1}'}, "colour"),
        ({"code": '{"source": "package", "md5sum": "x"}'}, "md5sum"),
        ({"code": '{"source": "package", "md5sum": "' + "0" * 32 + '"}'}, PACKAGE_MD5),
        ({"code": '{"source": "swift", "swift": {"container": "c", "object": "o"}}'}, "package"),
        ({"colour": "red", "shape": "round"}, "colour, shape"),
        ({"count": 5}, "count"),
    ],
)
def test_a_function_that_makes_no_sense_is_refused_and_leaves_nothing(
    client: Client, fields: dict[str, Any], word: str
) -> None:
    assert_error(client.upload(**fields), 400, word)
    assert client.simulate_get("/v1/functions").json == []
    assert client.stored() == set()


@pytest.mark.parametrize("missing", ["name", "runtime_id", "code", "package"])
def test_what_is_missing_is_named(client: Client, missing: str) -> None:
    parts = [part for part in client.parts() if part[0] != missing]
    assert_error(client.form("POST", "/v1/functions", parts), 400, missing)
    assert client.stored() == set()


def test_other_sources_may_come_as_json_or_a_plain_form(client: Client) -> None:
    swift = {"source": "swift", "swift": {"container": "c", "object": "o"}}
    fields = {"name": "n", "runtime_id": client.runtime()}
    assert_error(client.simulate_post("/v1/functions", json=fields | {"code": swift}), 400, "authentication")
    body = f"name=n&runtime_id={fields['runtime_id']}&code={json.dumps(swift)}".encode()
    plain = client.send("POST", "/v1/functions", body, "application/x-www-form-urlencoded")
    assert_error(plain, 400, "authentication")


def test_the_reference_client_may_leave_out_the_name_and_send_what_nobody_knows(client: Client) -> None:
    parts = [part for part in client.parts(colour="red") if part[0] != "name"]
    answer = client.form("POST", "/v1/functions", parts, headers=REFERENCE_CLIENT)
    assert (answer.status_code, answer.json["name"]) == (201, None)


def test_the_runtime_must_exist_and_be_available(client: Client) -> None:
    assert_error(client.upload(runtime_id=str(uuid.uuid4())), 404, "runtime_id")
    assert_error(client.upload(runtime_id=client.runtime(available=False)), 409, "not available")
    hidden = runtime.create(Context("theirs"), image="i", is_public=False)
    assert_error(client.upload(runtime_id=hidden.id), 404, "runtime_id")
    assert client.stored() == set()


# Download


@pytest.mark.parametrize("word", ["true", "True", "1", "yes", "on", "t", "y"])
def test_a_download_is_the_package_as_it_was_uploaded(client: Client, word: str) -> None:
    made = client.function()
    answer = client.simulate_get(f"/v1/functions/{made['id']}", params={"download": word})
    assert answer.status_code == 200
    assert answer.content == package()
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == f'attachment; filename="{made["id"]}.zip"'
    assert answer.headers["content-length"] == str(len(package()))
    assert answer.headers["etag"] == f'"{PACKAGE_MD5}"'


def test_download_false_shows_the_function(client: Client) -> None:
    made = client.function()
    assert client.simulate_get(f"/v1/functions/{made['id']}?download=false").json["id"] == made["id"]


# Delete


def test_a_deleted_function_takes_its_package_along(client: Client) -> None:
    path = f"/v1/functions/{client.function()['id']}"
    answer = client.simulate_delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.stored() == set()
    for method in ("GET", "DELETE"):
        assert_error(client.simulate_request(method, path), 404)


def test_two_functions_with_one_package_keep_one_each(client: Client) -> None:
    first, second = client.function(), client.function()
    client.simulate_delete(f"/v1/functions/{first['id']}")
    assert client.simulate_get(f"/v1/functions/{second['id']}?download=true").content == package()


def test_functions_of_other_projects_are_seen_by_an_admin_and_not_touched(client: Client) -> None:
    made = client.function()
    theirs = function.create(
        Context("theirs"),
        name="n",
        runtime_id=made["runtime_id"],
        code={"source": "package", "md5sum": PACKAGE_MD5},
        entry="main.main",
        cpu=100,
        memory_size=33554432,
        timeout=5,
        package_key=None,
    )
    path = f"/v1/functions/{theirs.id}"
    assert client.simulate_get(path).json["project_id"] == "theirs"
    assert_error(client.simulate_delete(path), 403)
    assert_error(client.simulate_put(path, json={"name": "mine"}), 403)
    assert_error(client.simulate_get(f"{path}?download=true"), 405)


# Troubles of our own


def test_without_redis_nothing_that_calls_depend_on_changes(services: Services, lonely_pool: Pool) -> None:
    client = Client(create_app(replace(services, pool=lonely_pool)), services.settings)
    made = client.function()
    stored = client.stored()
    path = f"/v1/functions/{made['id']}"
    assert_error(client.form("PUT", path, [("package", package("x = 1"))]), 503)
    assert_error(client.simulate_delete(path), 503)
    assert client.simulate_put(path, json={"name": "n"}).status_code == 200
    assert client.stored() == stored


def test_a_package_is_kept_when_it_is_unknown_whether_its_row_was_written(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = client.parts()

    def away(*args: Any, **kwargs: Any) -> None:
        raise Unavailable("The database went away.", retry_after_s=1)

    monkeypatch.setattr(function, "create", away)
    answer = client.form("POST", "/v1/functions", parts)
    assert_error(answer, 503)
    assert answer.headers["retry-after"] == "1"
    assert len(client.stored()) == 1
