"""Which `X-Forwarded-…` headers are used, and from which proxies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.client import Client, assert_error

FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "engine.example",
    "X-Forwarded-Prefix": "/faas",
    "X-Forwarded-For": "203.0.113.7",
    "Forwarded": "for=203.0.113.7;host=forwarded.example;proto=https",
}


def location(client: Client, headers: dict[str, str], peer: str = "10.1.2.3") -> str:
    """The `Location` of a new runtime, without its path."""
    answer = client.send("POST", "/v1/runtimes", b'{"image": "i"}', headers=headers, remote_addr=peer)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"]).partition("/v1/")[0]


@pytest.fixture
def behind(client_with: Callable[..., Client]) -> Client:
    hosts = "engine.example, spoofed.example, engine.example."
    return client_with(trusted_proxies="10.1.0.0/16, 2001:db8::7, 192.0.2.1", allowed_hosts=hosts)


@pytest.mark.parametrize("peer", ["10.1.2.3", "::ffff:10.1.2.3", "2001:db8::7", "192.0.2.1"])
def test_links_name_what_a_trusted_proxy_says(behind: Client, peer: str) -> None:
    assert location(behind, FORWARDED, peer) == "https://engine.example/faas"
    version = behind.simulate_get("/", headers=FORWARDED, remote_addr=peer).json["versions"][0]
    assert version["links"][0]["href"] == "https://engine.example/faas/v1"
    page = behind.simulate_get("/docs", headers=FORWARDED, remote_addr=peer).text
    assert 'data-url="/faas/openapi.json"' in page
    for name, link in (
        ("X-Forwarded-Proto", "https://localhost:7070"),
        ("X-Forwarded-Host", "http://engine.example"),
        ("X-Forwarded-Prefix", "http://localhost:7070/faas"),
    ):
        assert location(behind, {name: FORWARDED[name]}, peer) == link


@pytest.mark.parametrize("peer", ["127.0.0.1", "10.2.2.3", "2001:db8::8", "192.0.2.2", "::1", "", "a socket"])
def test_headers_of_other_peers_change_nothing(behind: Client, peer: str) -> None:
    assert location(behind, FORWARDED, peer) == "http://localhost:7070"
    assert 'data-url="/openapi.json"' in behind.simulate_get("/docs", headers=FORWARDED, remote_addr=peer).text


def test_no_peer_is_trusted_by_default(client: Client) -> None:
    for peer in ("127.0.0.1", "10.1.2.3", "::1"):
        assert location(client, FORWARDED, peer) == "http://localhost:7070"


def test_the_last_value_of_a_list_counts_because_the_trusted_proxy_added_it(behind: Client) -> None:
    headers = {
        "X-Forwarded-Proto": "http, https",
        "X-Forwarded-Host": "spoofed.example, engine.example",
        "X-Forwarded-Prefix": "/spoofed,/faas/",
    }
    assert location(behind, headers) == "https://engine.example/faas"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Forwarded-Proto", "javascript"),
        ("X-Forwarded-Proto", ""),
        ("X-Forwarded-Host", "engine.example/'><script>"),
        ("X-Forwarded-Host", "user@engine.example"),
        ("X-Forwarded-Host", ""),
        ("X-Forwarded-Prefix", "//spoofed.example"),
        ("X-Forwarded-Prefix", "faas"),
        ("X-Forwarded-Prefix", "/"),
        ("X-Forwarded-Prefix", '/"><script>'),
        ("Forwarded", FORWARDED["Forwarded"]),
        ("X-Forwarded-Port", "8443"),
    ],
)
def test_what_makes_no_sense_is_ignored(behind: Client, name: str, value: str) -> None:
    assert location(behind, {name: value}) == "http://localhost:7070"


def test_the_public_endpoint_counts_more(client_with: Callable[..., Client]) -> None:
    endpoint = "https://public.example/x/"
    client = client_with(trusted_proxies="10.1.2.3", public_endpoint=endpoint, allowed_hosts="engine.example")
    assert location(client, FORWARDED) == "https://public.example/x"


def test_without_authentication_both_hosts_must_be_the_services(behind: Client) -> None:
    """With DNS rebinding, a page may reach the proxy, or the service from the proxy's machine with forged headers."""
    for headers in (
        {"X-Forwarded-Host": "rebound.example"},
        {"X-Forwarded-Host": "localhost, rebound.example"},
        {"Host": "rebound.example", "X-Forwarded-Host": "localhost"},
    ):
        assert_error(behind.simulate_get("/v1/runtimes", headers=headers, remote_addr="10.1.2.3"), 421)


def test_the_origin_of_its_own_pages_is_what_the_proxy_says(behind: Client) -> None:
    own = {"Origin": "https://engine.example", "Sec-Fetch-Site": "same-origin"}
    assert location(behind, FORWARDED | own) == "https://engine.example/faas"
    foreign = behind.simulate_get("/v1/runtimes", headers=FORWARDED | own, remote_addr="10.2.2.3")
    assert_error(foreign, 403, "PUBLIC_ENDPOINT")
