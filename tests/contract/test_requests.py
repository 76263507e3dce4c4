"""The small print of HTTP, which is the same on all paths."""

from __future__ import annotations

import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest

from qinling_falcon.api import ROUTES
from tests.contract.service import NOBODY, REFERENCE_CLIENT, User, error

pytestmark = pytest.mark.xdist_group("contract")

METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


def filled(path: str, function_id: str) -> str:
    """The path with the id of something, or of nothing, in it."""
    path = path.replace("{function_id}", function_id).replace("{version}", "1").replace("{alias_name}", "no such")
    return re.sub(r"\{\w+_id\}", NOBODY, path)


# Webhooks say themselves which methods they take.
@pytest.mark.parametrize(("path", "resource"), [route for route in ROUTES if "/invoke" not in route[0]])
def test_a_method_that_a_path_has_not_is_refused_with_those_that_it_has(
    user: User, function_id: str, path: str, resource: object
) -> None:
    served = {method for method in METHODS if hasattr(resource, f"on_{method.lower()}")}
    allowed = served | ({"HEAD"} if "GET" in served else set()) | {"OPTIONS"}
    where = filled(path, function_id)
    for method in set(METHODS) - served:
        answer = user.send(method, where)
        error(answer, 405, method)
        assert set(answer.headers["Allow"].split(", ")) == allowed
    answer = user.send("OPTIONS", where)
    assert answer.status_code == 200
    assert set(answer.headers["Allow"].split(", ")) == allowed - {"OPTIONS"}


@pytest.mark.parametrize("path", [path for path, resource in ROUTES if hasattr(resource, "on_get")])
def test_head_is_get_without_its_body(user: User, function_id: str, path: str) -> None:
    where = filled(path, function_id)
    got, head = user.get(where), user.send("HEAD", where)
    assert (head.status_code, head.content) == (got.status_code, b"")
    for name in ("Content-Type", "Content-Length"):
        assert head.headers.get(name) == got.headers.get(name) or "/pool" in path


def test_head_of_a_download_names_its_length(user: User, function_id: str) -> None:
    path = f"/v1/functions/{function_id}?download=true"
    got, head = user.get(path), user.send("HEAD", path)
    for name in ("Content-Type", "Content-Length", "ETag", "Content-Disposition"):
        assert head.headers[name] == got.headers[name]
    assert head.content == b""


@pytest.mark.parametrize(
    "form", ["/v1/{0}", "/v1/{0}/", "/v1/v1/{0}", "//v1/{0}", "/v1//{0}", "/v1/v1/v1/{0}/", "/v1/{0}?", "/v1/{0}/?"]
)
def test_base_urls_that_were_put_together_in_other_ways_are_served(user: User, function_id: str, form: str) -> None:
    for path in (f"functions/{function_id}", f"functions/{function_id}/versions"):
        answer = user.service.http.get(user.url + form.format(path), timeout=60)
        assert answer.status_code == 200, answer.text
        assert answer.json() == user.get(f"/v1/{path}").json()


def test_links_name_the_path_as_it_is_meant(user: User) -> None:
    for number in range(2):
        user.made("/v1/runtimes", image="no/such-image", name=f"linked {number}")
    answer = user.get("/v1/v1/runtimes/?limit=1&name=has:linked")
    assert answer.headers["Link"].startswith(f"<{user.url}/v1/runtimes?")


@pytest.mark.parametrize("path", ["/v2", "/v1/nothing", "/v1/functions/{0}/nothing", "/runtimes"])
def test_an_unknown_path_is_not_found(user: User, function_id: str, path: str) -> None:
    for method in METHODS:
        error(user.send(method, path.format(function_id)), 404, "Not Found")


@pytest.mark.parametrize("kind", ["runtimes", "functions", "executions", "webhooks", "jobs"])
@pytest.mark.parametrize("value", ["7", "x" * 300, "5eeb5916ae4b43699f06ea422e581b83", "a%00b", "%FF", "%F0%9F%98%80"])
def test_an_id_that_is_no_uuid_is_refused(user: User, kind: str, value: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        if (kind, method) != ("executions", "PUT"):
            error(user.send(method, f"/v1/{kind}/{value}"), 400, "Expected a uuid but received")


@pytest.mark.parametrize("kind", ["runtimes", "functions", "executions", "webhooks", "jobs"])
def test_what_is_not_there_is_named(user: User, kind: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        if (kind, method) != ("executions", "PUT"):
            error(user.send(method, f"/v1/{kind}/{NOBODY}"), 404, NOBODY)


@pytest.mark.parametrize("kind", ["runtimes", "functions", "executions", "aliases", "webhooks", "jobs"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b'{"name": "\\u0000"}',
        b'{"description": "\\ud800"}',
        b'{"name": "\xff"}',
        b'{"description": NaN}',
        b'{"count": 1' + b"0" * 5000 + b"}",
        b'{"a": ' * 200 + b"1" + b"}" * 200,
    ],
    ids=["cut off", "array", "text", "null", "NUL", "surrogate", "no UTF-8", "NaN", "digits", "depth"],
)
def test_a_body_that_is_no_plain_json_object_is_refused(user: User, kind: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    error(user.send("POST", f"/v1/{kind}", data=body, headers=headers), 400)


@pytest.mark.parametrize("kind", ["runtimes", "functions", "executions", "aliases", "webhooks", "jobs"])
def test_a_body_of_another_media_type_is_refused(user: User, kind: str) -> None:
    for media_type in ("text/plain", "application/json; charset=latin-1"):
        error(user.send("POST", f"/v1/{kind}", data=b"{}", headers={"Content-Type": media_type}), 415)
    answer = user.send("POST", f"/v1/{kind}", data=b"{}", headers={"Content-Type": "application/json; charset=UTF-8"})
    error(answer, 400)  # something is missing in it, but it was read


@pytest.mark.parametrize("kind", ["runtimes", "functions", "executions", "aliases", "webhooks", "jobs"])
def test_all_unknown_fields_are_named(user: User, kind: str) -> None:
    given: dict[str, Any] = {"colour": "red", "size": 3}
    answer = user.post(f"/v1/{kind}", **given)
    for field in given:
        error(answer, 400, "Unknown field", field=field)


def test_a_get_may_say_that_its_absent_body_is_json(user: User) -> None:
    """As the reference client does."""
    for path in ("/", "/v1/runtimes", "/v1/functions"):
        assert user.get(path, headers={"Content-Type": "application/json"}).status_code == 200


def test_errors_are_json_whatever_is_accepted(user: User) -> None:
    for accept in ("text/html", "application/xml", "image/*"):
        error(user.get(f"/v1/functions/{NOBODY}", headers={"Accept": accept}), 404)


def test_every_answer_keeps_browsers_from_guessing_its_type(user: User, function_id: str) -> None:
    tag = user.get("/docs").headers["ETag"]
    one = f"/v1/functions/{function_id}"
    execution_id = user.made("/v1/executions", function_id=function_id)["id"]
    answers = [
        user.get(f"/v1/executions/{execution_id}/log"),
        user.get(f"{one}?download=true"),
        user.send("HEAD", one),
        user.get("/v1/functions", headers=REFERENCE_CLIENT),  # a stream
        user.get("/docs", headers={"If-None-Match": tag}),
        user.send("OPTIONS", one),
        user.delete(f"/v1/executions/{execution_id}"),
        user.get("/nothing"),
        user.send("PATCH", one),
        user.post("/v1/runtimes"),
        user.send("POST", "/v1/runtimes", data=b"{}", headers={"Content-Type": "text/plain"}),
        user.get("/", headers={"Host": "page.example"}),
        user.get("/", headers={"Origin": "http://page.example"}),
    ]
    assert {answer.status_code for answer in answers} == {200, 204, 304, 400, 403, 404, 405, 415, 421}
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff", answer.status_code


def test_every_answer_names_its_request(user: User) -> None:
    assert user.get("/", headers={"X-Request-Id": "mine-7"}).headers["X-Request-Id"] == "mine-7"
    assert user.get("/").headers["X-Request-Id"] != user.get("/").headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("request_line", "header", "status"),
    [
        (b"GET / HTTP/1.1", b"X-Auth-Token gAAAA-a-secret", 400),
        (b"GET / gAAAA-a-secret", b"X: x", 400),
        (b"GET / HTTP/1.1", b"X-Long: " + b"x" * 9000, 431),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1", b"X: x", 414),
        (b"GET / HTTP/1.1", b"no header", 400),
        (b"nonsense", b"X: x", 400),
        (b"GET / HTTP/7.7", b"X: x", 400),
    ],
)
def test_what_is_no_request_is_refused_in_the_one_shape_too(
    user: User, request_line: bytes, header: bytes, status: int
) -> None:
    address = urlsplit(user.service.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(request_line + b"\r\nHost: x\r\n" + header + b"\r\n\r\n")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Content-Type: application/json" in head
    assert b"X-Content-Type-Options: nosniff" in head
    said = json.loads(body)
    assert (said["faultcode"], said["debuginfo"], set(said)) == (
        "Client", None, {"faultstring", "faultcode", "debuginfo", "request_id"},
    )  # fmt: skip
    assert f"X-Request-Id: {said['request_id']}".encode() in head
    assert said["request_id"] in user.service.logs()
    assert "gAAAA" not in user.service.logs() + said["faultstring"]
