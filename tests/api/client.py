"""A client of the app in process, with the words that tests need."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from falcon import testing

from qinling_falcon.api import Api
from qinling_falcon.models import rollout
from qinling_falcon.settings import Settings
from tests.openapi.promises import promises

REFERENCE_CLIENT = {"User-Agent": "python-qinlingclient"}
BOUNDARY = "a-boundary"


def package(source: str = "def main():\n    return 'Hello'\n", name: str = "main.py") -> bytes:
    """A zip with one file; the same bytes for the same source."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), source)
    return buffer.getvalue()


PACKAGE_MD5 = hashlib.md5(package()).hexdigest()


def multipart(parts: list[tuple[str, str | bytes]], *, end: bool = True) -> bytes:
    """A form; the part named `package` gets a file name."""
    body = b""
    for name, value in parts:
        file = '; filename="päckage.zip"' if name == "package" else ""
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        body += (value if isinstance(value, bytes) else value.encode()) + b"\r\n"
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


class Client(testing.TestClient):
    """Sends requests to one app, and holds every answer against the API document."""

    def __init__(self, app: Api, settings: Settings, headers: Mapping[str, str] | None = None):
        super().__init__(app, headers={"Host": "localhost:7070", **(headers or {})})
        self.settings = settings
        self._promises = promises(settings)

    def simulate_request(self, *args: Any, **more: Any) -> Any:
        answer = super().simulate_request(*args, **more)
        method, path = (*args, *(more[name] for name in ("method", "path")[len(args) :] if name in more))[:2]
        self._promises.check(method, path, answer.status_code, answer.headers, answer.content)
        return answer

    def documented(self) -> dict[str, Any]:
        """The API document."""
        return self._promises.document

    def send(
        self, method: str, path: str, body: bytes = b"", content_type: str | None = "application/json", **more: Any
    ) -> testing.Result:
        headers = dict(more.pop("headers", {}))
        if content_type is not None:
            headers["Content-Type"] = content_type
        return self.simulate_request(method, path, body=body, headers=headers, **more)

    def form(
        self, method: str, path: str, parts: list[tuple[str, str | bytes]] | bytes, **more: Any
    ) -> testing.Result:
        body = parts if isinstance(parts, bytes) else multipart(parts)
        return self.send(method, path, body, f"multipart/form-data; boundary={BOUNDARY}", **more)

    def runtime(self, *, available: bool = True, **fields: Any) -> str:
        """The id of a runtime that a pool manager would have made available."""
        answer = self.simulate_post("/v1/runtimes", json={"image": "python3", "name": "python3", **fields})
        assert answer.status_code == 201, answer.text
        if available:
            assert rollout.promote(answer.json["id"], answer.json["image"])
        return str(answer.json["id"])

    def parts(self, **fields: Any) -> list[tuple[str, str | bytes]]:
        """The parts of a form that makes a function."""
        parts: dict[str, Any] = {"name": "hello", "code": json.dumps({"source": "package"}), "package": package()}
        if "runtime_id" not in fields:
            parts["runtime_id"] = self.runtime()
        parts |= fields
        return [(name, value if isinstance(value, bytes) else str(value)) for name, value in parts.items()]

    def upload(self, **fields: Any) -> testing.Result:
        """POST a function."""
        headers = fields.pop("headers", {})
        return self.form("POST", "/v1/functions", self.parts(**fields), headers=headers)

    def function(self, **fields: Any) -> dict[str, Any]:
        """A new function."""
        answer = self.upload(**fields)
        assert answer.status_code == 201, answer.text
        return dict(answer.json)

    def stored(self) -> set[str]:
        """Names of all files in the package store."""
        return {path.name for path in Path(self.settings.var_dir, "packages").iterdir()}


def assert_error(answer: testing.Result, status: int, *words: str) -> None:
    """The answer is an error in the one shape, and its message has all `words`."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    body = answer.json
    assert body["faultcode"] == ("Client" if status < 500 else "Server")
    assert body["debuginfo"] is None
    assert body["request_id"] == answer.headers["x-request-id"]
    assert isinstance(body["faultstring"], str)
    for word in words:
        assert word.lower() in body["faultstring"].lower(), body["faultstring"]
