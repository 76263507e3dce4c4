"""Functions from packages: made, shown, listed, downloaded, changed, deleted."""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from qinling_falcon.api import create_app
from qinling_falcon.errors import Unavailable
from qinling_falcon.models import function, runtime
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from qinling_falcon.resources import forms
from qinling_falcon.resources.services import Services
from qinling_falcon.storage.packages import ORPHAN_AGE_S
from tests.api.client import REFERENCE_CLIENT, Client, assert_error, multipart, package

FIELDS = {
    "id", "name", "description", "runtime_id", "code", "entry", "cpu", "memory_size", "timeout",
    "isolation", "count", "latest_version", "project_id", "created_at", "updated_at",
}  # fmt: skip
MD5 = hashlib.md5(package()).hexdigest()


def test_a_new_function_has_the_defaults_and_the_sum_of_its_package(client: Client) -> None:
    answer = client.upload()

    assert answer.status_code == 201, answer.text
    row = answer.json
    assert set(row) == FIELDS
    assert row["code"] == {"source": "package", "md5sum": MD5}
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
        ({"code": '{"source": "package", "md5sum": "' + "0" * 32 + '"}'}, MD5),
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


# Hostile uploads


def test_an_upload_in_chunks_is_refused(client: Client) -> None:
    extras = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    answer = client.form("POST", "/v1/functions", multipart([("name", "n")]), extras=extras)
    assert_error(answer, 411, "content-length")


def test_an_upload_above_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    extras = {"CONTENT_LENGTH": str(1 << 40)}
    assert_error(client.form("POST", "/v1/functions", [("package", b"x")], extras=extras), 413, "large")


def test_a_package_above_the_limit_is_refused(client: Client) -> None:
    big = b"PK" + bytes(client.settings.max_package_size)
    assert_error(client.upload(package=big), 413, "package")
    assert client.stored() == set()


def test_a_field_above_the_limit_is_refused(client: Client) -> None:
    assert_error(client.upload(description="x" * (client.settings.max_body_size + 1)), 413, "description")
    assert client.stored() == set()


def test_many_fields_together_stay_below_the_limit(client: Client) -> None:
    half = client.settings.max_body_size // 2 + 1
    assert_error(client.upload(description="x" * half, entry="x" * half), 413)


def test_many_parts_are_refused(client: Client) -> None:
    parts: list[tuple[str, str | bytes]] = [("name", "n")] * 100
    assert_error(client.form("POST", "/v1/functions", parts), 400, "parts")


@pytest.mark.parametrize("data", [b"", b"PK but no zip" * 10, package()[:-20]])
def test_what_is_no_zip_is_refused(client: Client, data: bytes) -> None:
    assert_error(client.upload(package=data), 400, "zip")
    assert client.stored() == set()


def test_a_package_that_waits_too_long_for_the_rest_of_its_form_is_not_taken(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the sweep might delete the package before its row is written."""
    times = iter([0.0, ORPHAN_AGE_S / 2 + 1])
    monkeypatch.setattr(forms, "time", SimpleNamespace(monotonic=lambda: next(times)))
    assert_error(client.upload(), 400, "Send the package as the last part")
    assert client.stored() == set()


def test_two_packages_in_one_form_are_refused(client: Client) -> None:
    parts = [*client.parts(), ("package", package())]
    assert_error(client.form("POST", "/v1/functions", parts), 400, "two parts")
    assert client.stored() == set()


@pytest.mark.parametrize("cut", [1, 10, 60, 200])
def test_a_form_that_breaks_off_is_refused(client: Client, cut: int) -> None:
    body = multipart(client.parts())[:-cut]
    answer = client.form("POST", "/v1/functions", body)
    # Without the last dashes alone the form is complete for all but the strictest reader.
    assert answer.status_code in ((201, 400) if cut == 1 else (400,)), answer.text
    assert len(client.stored()) == (1 if answer.status_code == 201 else 0)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(client: Client) -> None:
    body = multipart(client.parts(), end=False)
    extras = {"CONTENT_LENGTH": str(len(body) + 5000)}
    assert_error(client.form("POST", "/v1/functions", body, extras=extras), 400)
    assert client.stored() == set()


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "x" * 71, 400),
        ("multipart/form-data; boundary=other", 400),
        ("multipart/form-data; boundary=\u00e4", 400),
        ("multipart/mixed; boundary=a-boundary", 415),
        ("text/plain", 415),
        (None, 415),
    ],
)
def test_a_form_with_a_wrong_type_is_refused(client: Client, content_type: str | None, status: int) -> None:
    assert_error(client.send("POST", "/v1/functions", multipart(client.parts()), content_type), status)
    assert client.stored() == set()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition: form-data",
        b'Content-Disposition: form-data; name=""',
        b"X-Other: 1",
        b'Content-Disposition: form-data; name="\xff\xfe"',
        b'Content-Disposition: form-data; name="name"\r\nContent-Transfer-Encoding: base64',
        b'Content-Disposition: form-data; name="' + b"x" * 20000 + b'"',
    ],
)
def test_a_part_with_broken_headers_is_refused(client: Client, head: bytes) -> None:
    body = b"--a-boundary\r\n" + head + b"\r\n\r\nvalue\r\n--a-boundary--\r\n"
    assert_error(client.form("POST", "/v1/functions", body), 400)


def test_a_field_that_is_not_utf_8_is_refused(client: Client) -> None:
    assert_error(client.upload(name=b"\xff\xfe"), 400, "utf-8")
    form = client.send("POST", "/v1/functions", b"name=%ff", "application/x-www-form-urlencoded")
    assert_error(form, 400, "form")


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
    assert answer.headers["etag"] == f'"{MD5}"'


def test_download_false_shows_the_function(client: Client) -> None:
    made = client.function()
    assert client.simulate_get(f"/v1/functions/{made['id']}?download=false").json["id"] == made["id"]


# Update


def test_name_description_and_timeout_change_the_row_alone(client: Client) -> None:
    made = client.function()
    body = {"name": "n", "description": "d", "timeout": "7", "count": 99, "entry": None}
    answer = client.simulate_put(f"/v1/functions/{made['id']}", json=body)
    assert answer.status_code == 200, answer.text
    row = answer.json
    assert (row["name"], row["description"], row["timeout"], row["count"]) == ("n", "d", 7, 0)
    assert row["code"] == made["code"]
    assert row["updated_at"] is not None


def test_an_update_with_nothing_to_change_answers_with_the_function(client: Client) -> None:
    made = client.function()
    for content_type in (None, "application/json"):
        answer = client.send("PUT", f"/v1/functions/{made['id']}", content_type=content_type)
        assert (answer.status_code, answer.json) == (200, made)


def test_a_new_package_replaces_the_old_one(client: Client) -> None:
    made = client.function()
    before = client.stored()
    new = package("def main(): return 2")
    answer = client.form("PUT", f"/v1/functions/{made['id']}", [("package", new), ("entry", "main.other")])
    assert answer.status_code == 200, answer.text
    assert answer.json["code"] == {"source": "package", "md5sum": hashlib.md5(new).hexdigest()}
    assert answer.json["entry"] == "main.other"
    assert client.simulate_get(f"/v1/functions/{made['id']}?download=true").content == new
    assert len(client.stored()) == 1
    assert client.stored() != before


@pytest.mark.parametrize(
    "change", [{"entry": "main.other"}, {"cpu": 200}, {"memory": 67108864}, {"timeout": 9}, {"package": b""}]
)
def test_what_calls_depend_on_changes_the_generation(client: Client, pool: Pool, change: dict[str, Any]) -> None:
    made = client.function()
    what = f"function:{made['id']}"
    before = pool.generations([what])
    if "package" in change:
        change = {"package": package("def main(): return 3")}
    parts = [(name, value if isinstance(value, bytes) else str(value)) for name, value in change.items()]
    assert client.form("PUT", f"/v1/functions/{made['id']}", parts).status_code == 200
    assert pool.generations([what]) != before


def test_a_name_does_not_change_the_generation(client: Client, pool: Pool) -> None:
    made = client.function()
    before = pool.generations([f"function:{made['id']}"])
    client.simulate_put(f"/v1/functions/{made['id']}", json={"name": "other"})
    assert pool.generations([f"function:{made['id']}"]) == before


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([("code", '{"source": "package"}')], "package"),
        ([("code", '{"source": "swift"}')], "source"),
        ([("code", '{"source": "package", "md5sum": "' + MD5 + '"}'), ("package", package())], "not changed"),
        ([("code", '{"source": "package", "md5sum": "' + "0" * 32 + '"}'), ("package", package("x = 1"))], "md5sum"),
        ([("package", b"no zip")], "zip"),
        ([("cpu", "1"), ("package", package("x = 1"))], "cpu"),
        ([("latest_version", "4")], "latest_version"),
        ([("runtime_id", "7")], "uuid"),
    ],
)
def test_an_update_that_makes_no_sense_leaves_everything_as_it_was(
    client: Client, parts: list[tuple[str, str | bytes]], word: str
) -> None:
    made = client.function()
    shown, stored = client.simulate_get(f"/v1/functions/{made['id']}").json, client.stored()
    assert_error(client.form("PUT", f"/v1/functions/{made['id']}", parts), 400, word)
    assert client.simulate_get(f"/v1/functions/{made['id']}").json == shown
    assert client.stored() == stored


def test_another_runtime_follows_the_rules_of_a_new_function(client: Client) -> None:
    path = f"/v1/functions/{client.function()['id']}"
    other = client.runtime()
    assert client.simulate_put(path, json={"runtime_id": other}).json["runtime_id"] == other
    assert_error(client.simulate_put(path, json={"runtime_id": str(uuid.uuid4())}), 404, "runtime_id")
    assert_error(client.simulate_put(path, json={"runtime_id": client.runtime(available=False)}), 409)


def test_the_reference_client_puts_the_members_of_code_beside_it(client: Client) -> None:
    path = f"/v1/functions/{client.function()['id']}"
    new = package("def main(): return 4")
    parts: list[tuple[str, str | bytes]] = [("source", "package"), ("package", new)]
    answer = client.form("PUT", path, parts, headers=REFERENCE_CLIENT)
    assert answer.json["code"]["md5sum"] == hashlib.md5(new).hexdigest()
    form = b"source=swift&swift=container&swift=object"
    answer = client.send("PUT", path, form, "application/x-www-form-urlencoded", headers=REFERENCE_CLIENT)
    assert_error(answer, 400, "source")
    assert_error(client.form("PUT", path, parts), 400, "Unknown field: source")


def test_an_unknown_function_can_not_be_updated_and_keeps_no_package(client: Client) -> None:
    assert_error(client.form("PUT", f"/v1/functions/{uuid.uuid4()}", [("package", package())]), 404, "function")
    assert client.stored() == set()


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
        code={"source": "package", "md5sum": MD5},
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
