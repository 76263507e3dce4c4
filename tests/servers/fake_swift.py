"""A small Swift that can misbehave: what a real one can't be made to do. Plain requests are served as Swift does."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "a-token-that-is-long-enough-to-be-told-from-others"
Misbehaviour = Callable[[BaseHTTPRequestHandler], None]


class FakeSwift:
    """One account, `AUTH_a`.

    Attributes:
        url: of the account.
        objects: content by container and name.
        seen: method, path and token of each request.
        tokens: those that are believed.
        misbehave: serves requests instead.
        ending: set when the server is to end; for what takes long.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], bytes] = {}
        self.containers: set[str] = {"c"}
        self.seen: list[tuple[str, str, str | None]] = []
        self.tokens = {TOKEN}
        self.misbehave: Misbehaviour | None = None
        self.ending = threading.Event()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None: ...

            def _serve(self) -> None:
                fake.seen.append((self.command, self.path, self.headers["X-Auth-Token"]))
                with contextlib.suppress(ConnectionError):
                    (fake.misbehave or fake.behave)(self)

            do_GET = do_HEAD = do_PUT = do_DELETE = _serve

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.address}/v1/AUTH_a"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()

    def behave(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers["Content-Length"] or 0))
        if handler.headers["X-Auth-Token"] not in self.tokens:
            return answer(handler, 401)
        parts = unquote(url.path).split("/", 4)[3:]
        if len(parts) == 1:
            return self._container(handler, parts[0], parse_qs(url.query))
        place = (parts[0], parts[1])
        if handler.command == "PUT" and parts[0] in self.containers:
            self.objects[place] = body
            return answer(handler, 201, b"", ETag=hashlib.md5(body).hexdigest())
        if place not in self.objects or handler.command == "PUT":
            return answer(handler, 404)
        if handler.command == "DELETE":
            del self.objects[place]
            return answer(handler, 204)
        content = self.objects[place]
        etag = hashlib.md5(content).hexdigest()
        if handler.headers["If-Match"] not in (None, etag):
            return answer(handler, 412)
        wanted = handler.headers["Range"]
        if wanted is None:
            return answer(handler, 200, content, ETag=etag)
        first = int(wanted.removeprefix("bytes=").removesuffix("-"))
        part = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
        return answer(handler, 206, content[first:], ETag=etag, **part)

    def _container(self, handler: BaseHTTPRequestHandler, name: str, query: dict[str, list[str]]) -> None:
        if handler.command == "PUT":
            self.containers.add(name)
            return answer(handler, 201)
        if name not in self.containers:
            return answer(handler, 404)
        after = query.get("marker", [""])[0]
        names = sorted(obj for container, obj in self.objects if container == name and obj > after)[:2]
        rows = [{"name": obj, "last_modified": "2020-01-01T00:00:00.000000"} for obj in names]
        return answer(handler, 200, json.dumps(rows).encode())


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients break off here, which is no news."""


def answer(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)


@contextlib.contextmanager
def fake_swift() -> Iterator[FakeSwift]:
    server = FakeSwift()
    try:
        yield server
    finally:
        server.close()
