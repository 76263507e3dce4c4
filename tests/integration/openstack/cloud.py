"""The service in front of a Keystone, and those who call it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import requests

from qinling_falcon.api import ROUTES
from qinling_falcon.resources.operation import operations_of
from tests.api.tenancy_acts import DELIVERED, OPEN
from tests.integration.openstack.proxy import Proxy
from tests.integration.service import Service, free_port, running_service, wait_until
from tests.servers.openstack import Keystone
from tests.support.secrets import fernet_key

TOKEN_CACHE_S = 2.0
TIMEOUT_S = 1.5


@dataclass
class Cloud:
    """A running service that asks Keystone through a proxy; its own requests are an admin's."""

    keystone: Keystone
    proxy: Proxy
    service: Service

    def send(self, method: str, path: str, token: str | bytes | None, **arguments: Any) -> requests.Response:
        """A request with this token, or with none."""
        return send(self.service.url, method, path, token, **arguments)

    def get(self, token: str | bytes | None, path: str = "/v1/functions", **arguments: Any) -> requests.Response:
        return self.send("GET", path, token, **arguments)

    def account(self, user: str) -> dict[str, str]:
        """What the user's `rc` file sets for OpenStack's clients."""
        settings = self.keystone.settings(user)
        domains = {"OS_USER_DOMAIN_NAME": "Default", "OS_PROJECT_DOMAIN_NAME": "Default"}
        more = {"OS_AUTH_TYPE": "password", "OS_IDENTITY_API_VERSION": "3", "OS_INTERFACE": "public"}
        return {name: value for name, value in settings.items() if name.startswith("OS_")} | domains | more

    def log(self) -> str:
        return (self.service.var_dir / "web.log").read_text()

    @contextlib.contextmanager
    def web(self, **settings: object) -> Iterator[Web]:
        """Another web process on the same data, with other settings; it need not get ready."""
        port = str(free_port())
        environ = self.service.environ | {"PORT": port} | {name: str(value) for name, value in settings.items()}
        other = Service(int(port), self.service.var_dir, environ)
        other.start_web(name := f"web-{port}")
        try:
            web = Web(other, name)
            wait_until("the other web answers", lambda: web.get(None, "/healthz").status_code == 200)
            yield web
        finally:
            other.stop(name)


class Web:
    """A web process of its own."""

    def __init__(self, service: Service, name: str):
        self._service = service
        self._name = name

    def send(self, method: str, path: str, token: str | bytes | None, **arguments: Any) -> requests.Response:
        return send(self._service.url, method, path, token, **arguments)

    def get(self, token: str | bytes | None, path: str = "/v1/functions") -> requests.Response:
        return self.send("GET", path, token)

    def log(self) -> str:
        return (self._service.var_dir / f"{self._name}.log").read_text()


def send(url: str, method: str, path: str, token: str | bytes | None, **arguments: Any) -> requests.Response:
    headers = dict(arguments.pop("headers", {})) | {"Connection": "close"}
    if token is not None:
        headers["X-Auth-Token"] = token
    return requests.request(method, url + path, headers=headers, timeout=60, **arguments)


@contextlib.contextmanager
def running_cloud(keystone: Keystone, proxy: Proxy) -> Iterator[Cloud]:
    """One web process, so that what it asks can be counted; it logs all that it can."""
    settings = keystone.settings() | {
        "SECRET_KEYS": fernet_key(),
        "OS_AUTH_URL": proxy.url,
        "TOKEN_CACHE_S": str(TOKEN_CACHE_S),
        "KEYSTONE_TIMEOUT_S": str(TIMEOUT_S),
        "WEB_CONCURRENCY": "1",
        "LOG_LEVEL": "debug",
        "MAX_WORKERS": "12",
        "WARM_WORKERS": "1",
    }
    with running_service(**settings) as service:
        service.http.headers.update({"X-Auth-Token": keystone.token("admin"), "Connection": "close"})
        yield Cloud(keystone, proxy, service)


def operations(*, are_open: bool) -> Iterator[tuple[str, str]]:
    """Every method of every route that is open to everybody, or is not; its path filled with names of nothing.

    The routes of senders of webhooks are left out: they need a webhook, and no token.
    """
    for route, make in ROUTES:
        if route in DELIVERED:
            continue
        path = re.sub(r"{(\w+)}", lambda name: _NAMES.get(name[1], NOTHING), route)
        methods: Callable[[Any], dict[str, object]] = operations_of
        for method in methods(make):
            if ((method, route) in OPEN) == are_open:
                yield method, path


_NAMES = {"version": "1", "file_name": "swagger-ui.css"}
NOTHING = "11111111-2222-3333-4444-555555555555"


def assert_error(answer: requests.Response, status: int, *words: str) -> None:
    """The answer is an error in the one shape, and its message has all `words`."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() >= {"faultstring", "faultcode", "debuginfo", "request_id"}
    assert body["faultcode"] == ("Client" if status < 500 else "Server")
    assert body["request_id"] == answer.headers["X-Request-Id"]
    for word in words:
        assert word.lower() in body["faultstring"].lower(), body["faultstring"]


def assert_unauthorized(answer: requests.Response, proxy: Proxy) -> None:
    """The answer is 401, and says where a token can be had."""
    assert_error(answer, 401)
    assert answer.headers["WWW-Authenticate"] == f'Keystone uri="{proxy.url}"'


def assert_away(answer: requests.Response) -> None:
    """The answer is 503, and says when to try again."""
    assert_error(answer, 503)
    assert int(answer.headers["Retry-After"]) >= 1
