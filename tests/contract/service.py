"""A user of the service, with the words that these tests need."""

from __future__ import annotations

import uuid
from typing import Any

import requests

from tests.integration.service import Service

# What makes an answer one for python-qinlingclient.
REFERENCE_CLIENT = {"User-Agent": "python-qinlingclient"}
# Rows of a page without a `limit`, and the most that one may name; and other limits that tests reach.
LIST_LIMIT = 20
LIST_LIMIT_MAX = 22
MAX_VERSIONS = 4
MAX_PACKAGE_SIZE = 1024 * 1024
# A quarter of them may be warm: enough for three runtimes.
MAX_WORKERS = 24
# The address of a proxy that is trusted; all others are not, 127.0.0.1 neither.
PROXY = "127.0.0.2"
# The id of nothing.
NOBODY = "00000000-0000-4000-8000-000000000000"
HELLO = "def main(name='World'):\n    print('Hello, World!')\n    return 'Hello, ' + name\n"


class User:
    """Sends requests to one service."""

    def __init__(self, service: Service):
        self.service = service
        self.url = service.url

    def send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        return self.service.request(method, path, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return self.send("GET", path, **arguments)

    def post(self, path: str, **body: Any) -> requests.Response:
        return self.send("POST", path, json=body)

    def put(self, path: str, **body: Any) -> requests.Response:
        return self.send("PUT", path, json=body)

    def delete(self, path: str) -> requests.Response:
        return self.send("DELETE", path)

    def made(self, path: str, **body: Any) -> dict[str, Any]:
        """What a POST of `body` made."""
        answer = self.post(path, **body)
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    def runtime_id(self) -> str:
        """A runtime that is available."""
        return self.service.runtime()

    def function(self, source: str = HELLO, **fields: Any) -> str:
        """The id of a new function."""
        return self.service.function(source, **fields)

    def version(self, function_id: str, **fields: Any) -> int:
        """The number of a new version; one of the function's limits is changed, so that there is something new."""
        path = f"/v1/functions/{function_id}"
        answer = self.put(path, timeout=self.get(path).json()["timeout"] % 300 + 1)
        assert answer.status_code == 200, answer.text
        return int(self.made(f"{path}/versions", **fields)["version_number"])

    def alias(self, function_id: str, **fields: Any) -> str:
        """The name of a new alias."""
        name = f"alias-{uuid.uuid4()}"
        return str(self.made("/v1/aliases", name=name, function_id=function_id, **fields)["name"])

    def workers(self, function_id: str, version: int = 0) -> list[str]:
        """Names of the workers that hold a function."""
        answer = self.get(f"/v1/functions/{function_id}/workers", params={"function_version": version})
        assert answer.status_code == 200, answer.text
        return [row["worker_name"] for row in answer.json()]


def error(answer: requests.Response, status: int, *words: str, field: str | None = None) -> None:
    """The answer is an error of the one shape that all have; its message has `words`, its `errors` name `field`."""
    assert answer.status_code == status, f"{answer.status_code} {answer.text}"
    assert answer.headers["Content-Type"].startswith("application/json")
    body = answer.json()
    assert body.keys() - {"errors"} == {"faultstring", "faultcode", "debuginfo", "request_id"}
    assert body["faultcode"] == ("Client" if status < 500 else "Server")
    assert body["debuginfo"] is None
    assert body["request_id"] == answer.headers["X-Request-Id"]
    for word in words:
        assert word.lower() in body["faultstring"].lower(), body["faultstring"]
    if field is not None:
        assert field in body["faultstring"], body["faultstring"]
        assert field in body["errors"], body


def located(user: User, answer: requests.Response, path: str) -> None:
    """The answer says that what it is about can be found there, and it can."""
    assert answer.headers["Location"] == user.url + path
    assert user.get(path).status_code == 200


def no_body(answer: requests.Response, status: int) -> None:
    """The answer is of this status, and empty."""
    assert answer.status_code == status, answer.text
    assert answer.content == b""
