"""What holds for every request: bodies, media types, ids, errors, health."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import re
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from qinling_falcon import api
from qinling_falcon.api import create_app
from qinling_falcon.auth.identity import Identity
from qinling_falcon.errors import Unauthorized
from qinling_falcon.observability.health import Check
from qinling_falcon.resources.operation import operations_of
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.api.fake_engine import FakeEngine

BODY = b'{"image": "python3"}'


def test_the_version_document_is_open_and_names_the_host(client: Client) -> None:
    for path in ("/", "/v1", "/v1/", "//v1", "/v1/v1"):
        answer = client.simulate_get(path, headers={"Host": "engine.localhost:7070"})
        link = {"href": "http://engine.localhost:7070/v1", "target": "v1", "rel": "self"}
        assert answer.json == {"versions": [{"status": "CURRENT", "id": "v1.0", "links": [link]}]}


@pytest.mark.parametrize("path", ["/v1/v1/runtimes", "//v1/runtimes", "/v1/runtimes/", "/v1//runtimes"])
def test_base_urls_that_were_put_together_wrongly_work(client: Client, path: str) -> None:
    assert client.simulate_get(path).json == []
    assert client.simulate_post(path, json={"image": "i"}).status_code == 201


@pytest.mark.parametrize(
    "content_type", ["application/json", "application/json; charset=UTF-8", "application/vnd.x.y+json"]
)
def test_json_comes_under_several_names(client: Client, content_type: str) -> None:
    assert client.send("POST", "/v1/runtimes", BODY, content_type).status_code == 201


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "application/json; charset=utf-16"],
)
def test_other_media_types_are_refused(client: Client, content_type: str | None) -> None:
    assert_error(client.send("POST", "/v1/runtimes", BODY, content_type), 415)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[1]",
        b"null",
        b'"text"',
        b'{"image": "\xff"}',
        BODY.decode().encode("utf-16"),
        b'{"image": "\\ud800"}',
        b'{"image": "a\\u0000b"}',
        b"[" * 50_000,
        b'{"image": ' + b"9" * 5000 + b"}",
        b'{"image": NaN}',
    ],
)
def test_bodies_that_are_no_plain_json_object_are_refused(client: Client, body: bytes) -> None:
    assert_error(client.send("POST", "/v1/runtimes", body), 400)


def test_a_body_above_the_limit_is_refused(client: Client) -> None:
    body = json.dumps({"image": "x" * client.settings.max_body_size}).encode()
    assert_error(client.send("POST", "/v1/runtimes", body), 413, "65536")
    assert_error(client.send("POST", "/v1/runtimes", b"{}", extras={"CONTENT_LENGTH": str(1 << 50)}), 413)


def test_a_body_shorter_than_it_says_is_refused(client: Client) -> None:
    assert_error(client.send("POST", "/v1/runtimes", BODY, extras={"CONTENT_LENGTH": "500"}), 400, "shorter")


def chunked(body: bytes) -> dict[str, Any]:
    """The environment of a chunked request: no length, and a stream that ends after the body."""
    return {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True, "CONTENT_LENGTH": ""}


def test_a_chunked_body_is_read(client: Client) -> None:
    assert client.send("POST", "/v1/runtimes", extras=chunked(BODY)).status_code == 201


def test_a_chunked_body_above_the_limit_is_refused(client: Client) -> None:
    body = json.dumps({"image": "x" * client.settings.max_body_size}).encode()
    assert_error(client.send("POST", "/v1/runtimes", extras=chunked(body)), 413)


@pytest.mark.parametrize("error", [ConnectionResetError("reset by peer"), Exception("invalid chunk size")])
def test_a_chunked_body_that_breaks_is_the_clients_fault(client: Client, error: Exception) -> None:
    class Broken(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise error

    assert_error(client.send("POST", "/v1/runtimes", extras=chunked(b"") | {"wsgi.input": Broken()}), 400)


def test_a_get_with_a_content_type_and_no_body_is_fine(client: Client) -> None:
    assert client.send("GET", "/v1/runtimes").status_code == 200


def test_a_token_means_nothing_without_authentication(client: Client) -> None:
    assert client.simulate_get("/v1/runtimes", headers={"X-Auth-Token": "notused"}).status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/png", None])
def test_errors_are_json_whatever_the_client_would_like(client: Client, accept: str | None) -> None:
    headers = {"Accept": accept} if accept else {}
    assert_error(client.simulate_get("/nothing", headers=headers), 404, "/nothing")
    assert_error(client.simulate_get("/v1/nothing", headers=headers), 404)
    answer = client.simulate_patch("/v1/runtimes", headers=headers)
    assert_error(answer, 405)
    assert set(answer.headers["allow"].split(", ")) >= {"GET", "POST"}
    assert_error(client.send("POST", "/v1/runtimes", BODY, "text/plain", headers=headers), 415)


@pytest.mark.parametrize("value", ["7", "x" * 200, "5eeb5916ae4b43699f06ea422e581b83", "a%00b", "%F0%9F%98%80"])
@pytest.mark.parametrize("kind", ["runtimes", "functions", "executions"])
def test_an_id_that_is_no_uuid_is_refused(client: Client, kind: str, value: str) -> None:
    for method in ("GET", "DELETE"):
        assert_error(client.simulate_request(method, f"/v1/{kind}/{value}"), 400, "expected a uuid but received")


def test_ids_are_compared_without_regard_to_case(client: Client) -> None:
    runtime_id = client.runtime()
    assert client.simulate_get(f"/v1/runtimes/{runtime_id.upper()}").json["id"] == runtime_id


@pytest.mark.parametrize("given", ["abc-123", "req.1:2_3", "x" * 128])
def test_a_sane_request_id_is_echoed(client: Client, given: str) -> None:
    for path in ("/", "/nothing", "/v1/runtimes/7"):
        assert client.simulate_get(path, headers={"X-Request-Id": given}).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "<script>", "a;b"])
def test_another_request_id_is_replaced(client: Client, given: str) -> None:
    made = client.simulate_get("/", headers={"X-Request-Id": given}).headers["x-request-id"]
    assert uuid.UUID(made.removeprefix("req-"))


def test_an_unexpected_error_is_logged_with_its_request_and_not_shown(
    client: Client, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.error = RuntimeError("a secret of ours")
    function_id = client.function()["id"]
    answer = client.simulate_post(
        "/v1/executions", json={"function_id": function_id}, headers={"X-Request-Id": "find-me"}
    )
    assert_error(answer, 500, "find-me")
    assert "secret" not in answer.text
    assert "Traceback" not in answer.text
    logged = next(entry for entry in caplog.records if entry.levelno == logging.ERROR)
    assert vars(logged)["request_id"] == "find-me"
    assert logged.exc_info is not None


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_an_odd_method_is_refused(client: Client) -> None:
    assert_error(client.simulate_request("WEBSOCKET", "/"), 400)


def test_liveness_needs_no_neighbour(client: Client) -> None:
    assert client.simulate_get("/healthz").status_code == 200


def test_readiness_names_who_is_away(services: Services) -> None:
    def away() -> None:
        raise ConnectionError("refused")

    good = Client(create_app(with_checks(services, redis=lambda: None, database=lambda: None)), services.settings)
    assert good.simulate_get("/readyz").status_code == 200
    bad = Client(create_app(with_checks(services, redis=away, database=lambda: None)), services.settings)
    answer = bad.simulate_get("/readyz")
    assert_error(answer, 503, "redis")
    assert set(answer.json["errors"]) == {"redis"}


def with_checks(services: Services, **checks: Any) -> Services:
    return dataclasses.replace(services, checks=checks)


OPEN = {
    "/", "/v1", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file_name}",
    "/v1/webhooks/{webhook_id}/invoke", "/v1/webhooks/{webhook_id}/invoke/{path:path}",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")
def test_only_what_is_meant_to_be_open_is_open(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def authenticate(self, environ: object) -> Identity:
            raise Unauthorized("Nobody.", challenge="Test")

        def checks(self) -> dict[str, Check]:
            return {}

    monkeypatch.setattr(api, "make_authenticator", lambda settings, policy: Nobody())
    client = Client(create_app(services), dataclasses.replace(services.settings, auth_mode="keystone"))
    for path, resource in api.ROUTES:
        for method in operations_of(resource):
            answer = client.simulate_request(method, re.sub(r"{[\w:]+}", "x", path))
            assert (answer.status_code == 401) == (path not in OPEN), f"{method} {path}"


@pytest.mark.parametrize("host", ['evil.example/"><x', "a b", "user@host", "host:port", ""])
def test_a_host_that_is_none_is_refused_before_anything_is_made(client: Client, host: str) -> None:
    assert_error(client.simulate_post("/v1/runtimes", json={"image": "python3"}, headers={"Host": host}), 400, "Host")
    assert client.simulate_get("/v1/runtimes").json == []


@pytest.mark.parametrize("host", ["qinling.example:8443", "[::1]:7070", "10.0.0.1", "under_score"])
def test_links_name_the_host_of_the_request(client_with: Callable[..., Client], host: str) -> None:
    client = client_with(allowed_hosts="qinling.example, 10.0.0.1, under_score")
    made = client.simulate_post("/v1/runtimes", json={"image": "python3"}, headers={"Host": host})
    assert made.headers["location"] == f"http://{host}/v1/runtimes/{made.json['id']}"
