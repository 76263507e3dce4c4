"""Requests that web pages of other sites send to a service without authentication, with the headers of browsers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import falcon
import pytest
from falcon import testing

from qinling_falcon import api
from qinling_falcon.auth.noauth import NoAuth
from qinling_falcon.resources.operation import Answer, CrossSite, operation
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error

PATHS = ("/", "/v1", "/healthz", "/openapi.json", "/docs", "/docs/start.js", "/v1/runtimes", "/v1/functions")
# A link that is followed, and other ways of loading an address, as Chromium 150 sends them from a page of another site.
LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FRAME = LINK | {"Sec-Fetch-Dest": "iframe"}
IMAGE = LINK | {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"}
FORM = LINK | {"Origin": "http://page.example"}
FETCH = {"Origin": "http://page.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"}


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LocalHost:7070", "localhost.", "127.0.0.1", "127.0.0.1:7070", "127.8.9.10", "[::1]", "[::1]:80",
        "[::ffff:127.0.0.1]", "engine.localhost:7070", "named.example", "NAMED.example:8443", "public.example",
    ],
)  # fmt: skip
def test_the_service_is_known_by_loopback_and_by_the_names_that_are_set(
    client_with: Callable[..., Client], host: str
) -> None:
    client = client_with(public_endpoint="https://user@public.example:8443/qinling", allowed_hosts="x, Named.example")
    for path in PATHS:
        assert client.simulate_get(path, headers={"Host": host}).status_code == 200, path


@pytest.mark.parametrize(
    "host",
    [
        "rebound.example", "rebound.example:7070", "localhost.rebound.example", "127.0.0.1.rebound.example",
        "xlocalhost", "localhost.localdomain", "192.168.1.7:7070", "0.0.0.0:7070", "[2001:db8::1]", "127.1",
        "2130706433", "named.example.rebound.example",
    ],
)  # fmt: skip
def test_requests_for_another_host_are_refused(client_with: Callable[..., Client], host: str) -> None:
    client = client_with(allowed_hosts="named.example")
    for path in PATHS:
        for headers in ({}, {"Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}):
            answer = client.simulate_get(path, headers={"Host": host} | headers)
            assert_error(answer, 421, "ALLOWED_HOSTS")
    assert_error(client.simulate_get("/nothing", headers={"Host": host}), 421)
    assert_error(client.simulate_post("/v1/runtimes", json={"image": "i"}, headers={"Host": host}), 421)
    assert client.simulate_get("/v1/runtimes").json == []


def test_every_ip_address_is_known_where_all_addresses_are_served(client_with: Callable[..., Client]) -> None:
    """An IP address in `Host` is safe, because DNS rebinding needs a name."""
    for everywhere in ("0.0.0.0", "::"):
        client = client_with(host=everywhere, allow_remote_noauth=True)
        for host in ("192.168.1.7:7070", "[2001:db8::1]:7070", "localhost"):
            assert client.simulate_get("/v1/runtimes", headers={"Host": host}).status_code == 200
        assert_error(client.simulate_get("/v1/runtimes", headers={"Host": "rebound.example"}), 421)
    client = client_with(host="engine.lan", allow_remote_noauth=True)
    assert client.simulate_get("/v1/runtimes", headers={"Host": "engine.lan:7070"}).status_code == 200
    assert_error(client.simulate_get("/v1/runtimes", headers={"Host": "192.168.1.7"}), 421)


def test_a_client_that_names_no_host_is_no_browser(client: Client) -> None:
    plain = testing.TestClient(client.app)
    assert plain.simulate_get("/v1/runtimes").status_code == 421  # the test client's own host
    assert plain.simulate_get("/v1/runtimes", http_version="1.0").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        FETCH,
        FORM,
        IMAGE,
        FRAME,
        {"Origin": "http://page.example"},  # Safari before 16.4
        {"Origin": "null", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
        {"Origin": "https://localhost:7070"},
        {"Origin": "http://localhost"},
        {"Origin": "http://127.0.0.1:7070"},
        {"Origin": "http://localhost:7070.page.example"},
        {"Origin": "http://localhost:7070", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "chrome-extension://abcdefghijklmnopabcdefghijklmnop"},
        {"Sec-Fetch-Site": "something new"},
    ],
)
def test_pages_of_other_sites_are_refused(client: Client, headers: dict[str, str]) -> None:
    function_id = client.function()["id"]
    one = f"/v1/functions/{function_id}"
    acts: list[tuple[str, str]] = [("GET", path) for path in PATHS]
    acts += [("POST", f"{one}/detach"), ("POST", f"{one}/scale_up"), ("POST", f"{one}/scale_down"), ("DELETE", one)]
    for method, path in acts:
        assert_error(client.simulate_request(method, path, headers=headers), 403, "pages of")
    assert_error(client.form("POST", "/v1/functions", client.parts(), headers=headers), 403, "pages of")
    assert_error(client.send("POST", "/v1/runtimes", b'{"image": "i"}', headers=headers), 403, "pages of")
    assert [row["id"] for row in client.simulate_get("/v1/functions").json] == [function_id]
    assert len(client.stored()) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
        {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"},
        {"Origin": "http://localhost:7070", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://localhost:7070"},
        {"Origin": "HTTP://LOCALHOST:7070"},
        {"Host": "localhost", "Origin": "http://localhost"},
        {"Host": "localhost:80", "Origin": "http://localhost"},
    ],
)
def test_its_own_pages_are_served(client: Client, headers: dict[str, str]) -> None:
    for path in PATHS:
        assert client.simulate_get(path, headers=headers).status_code == 200
    assert client.send("POST", "/v1/runtimes", b'{"image": "i"}', headers=headers).status_code == 201


def test_pages_of_the_public_endpoint_are_its_own(client_with: Callable[..., Client]) -> None:
    for endpoint in ("https://public.example/qinling/", "https://public.example:443"):
        client = client_with(public_endpoint=endpoint)
        own = {"Origin": "https://public.example", "Sec-Fetch-Site": "same-origin"}
        assert client.send("POST", "/v1/runtimes", b'{"image": "i"}', headers=own).status_code == 201
        for origin in ("http://public.example", "https://public.example:8443", "https://x.public.example"):
            assert_error(client.simulate_get("/v1/runtimes", headers={"Origin": origin}), 403, origin)


def test_a_link_of_another_site_shows_the_page_of_the_document_and_nothing_else(client: Client) -> None:
    for site in ("cross-site", "same-site"):
        for method in ("GET", "HEAD"):
            assert client.simulate_request(method, "/docs", headers=LINK | {"Sec-Fetch-Site": site}).status_code == 200
    for path in PATHS:
        if path != "/docs":
            assert_error(client.simulate_get(path, headers=LINK), 403)


def test_an_operations_own_rule_for_other_sites_counts_not_its_path(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call of a webhook will be such an operation."""

    def resource(kind: CrossSite) -> type:
        class Called:
            def __init__(self, services: Services):
                pass

            @operation(None, answers=Answer(204), cross_site=kind)
            def on_post(self, req: Request, resp: falcon.Response) -> None:
                resp.status = falcon.HTTP_204

        return Called

    routes: Any = [(f"/v1/{kind}/invoke", resource(kind)) for kind in ("always", "navigation", "never")]
    monkeypatch.setattr(api, "ROUTES", routes)
    client = testing.TestClient(api.create_app(services), headers={"Host": "localhost:7070"})
    for headers in (FETCH, FORM, {"Origin": "null"}):
        assert client.simulate_post("/v1/always/invoke", headers=headers).status_code == 204
        for path in ("/v1/navigation/invoke", "/v1/never/invoke"):
            assert client.simulate_post(path, headers=headers).status_code == 403
    assert client.simulate_post("/v1/always/invoke", headers={"Host": "rebound.example"}).status_code == 421


def test_with_authentication_a_page_has_no_token_to_send(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "make_authenticator", lambda settings, policy: NoAuth())
    settings = replace(services.settings, auth_mode="keystone")
    client = testing.TestClient(api.create_app(replace(services, settings=settings)))
    for headers in (FETCH, {"Host": "rebound.example"}, {"Origin": "https://dashboard.example"}):
        assert client.simulate_get("/v1/runtimes", headers=headers).status_code == 200
