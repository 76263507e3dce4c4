"""The document that names the API's versions, and whether the service lives."""

from __future__ import annotations

import contextlib
import http.client
import json
from urllib.parse import urlsplit

import pytest
import requests

from tests.contract.service import PROXY, User

pytestmark = pytest.mark.xdist_group("contract")


def check_document(user: User, answer: requests.Response, url: str | None = None) -> None:
    assert answer.status_code == 200
    link = {"href": f"{url or user.url}/v1", "target": "v1", "rel": "self"}
    assert answer.json() == {"versions": [{"status": "CURRENT", "id": "v1.0", "links": [link]}]}


def test_GET_root_answers_200(user: User) -> None:
    check_document(user, user.get("/"))


def test_GET_v1_answers_200(user: User) -> None:
    check_document(user, user.get("/v1"))
    check_document(user, user.get("/v1/"))


def test_the_document_names_the_host_that_the_client_has_named(user: User) -> None:
    answer = user.get("/", headers={"Host": "functions.example:7070"})
    check_document(user, answer, "http://functions.example:7070")


def test_the_document_names_what_a_trusted_proxy_says(user: User) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "functions.example", "X-Forwarded-Prefix": "/faas"}
    address = urlsplit(user.url)
    proxy = http.client.HTTPConnection(str(address.hostname), address.port, timeout=30, source_address=(PROXY, 0))
    with contextlib.closing(proxy):
        proxy.request("GET", "/", headers=headers)
        (version,) = json.load(proxy.getresponse())["versions"]
    assert version["links"][0]["href"] == "https://functions.example/faas/v1"


def test_other_peers_on_this_machine_are_not_trusted(user: User) -> None:
    """Gunicorn would believe these from loopback."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "on", "X-Forwarded-Protocol": "ssl"}
    check_document(user, user.get("/", headers=headers | {"X-Forwarded-Host": "page.example"}))


@pytest.mark.parametrize("token", ["notused", "", "ünknown".encode()])
def test_a_token_is_ignored_without_authentication(user: User, token: str | bytes) -> None:
    for path in ("/", "/v1/runtimes"):
        assert user.get(path, headers={"X-Auth-Token": token}).status_code == 200


def test_GET_healthz_answers_200(user: User) -> None:
    answer = user.get("/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_GET_readyz_answers_200(user: User) -> None:
    answer = user.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
