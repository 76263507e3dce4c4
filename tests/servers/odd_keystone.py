"""A small server that answers as no real Keystone does, when it is told to."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from qinling_falcon.settings import Settings

SETTINGS = Settings(
    auth_mode="keystone", os_auth_url="http://127.0.0.1:1/v3", os_username="qinling", os_password="secret",
    os_project_name="service", keystone_timeout_s=5.0,
)  # fmt: skip


class OddKeystone:
    """Lets everybody in, and answers requests for trusts as it is told.

    Attributes:
        logins: the status of whoever logs in.
        seen: method and path of each request, and its token.
    """

    def __init__(self) -> None:
        self.status, self.headers, self.body = 201, {}, b""  # type: tuple[int, dict[str, str], bytes]
        self.logins = 201
        self.seen: list[tuple[str, str, str | None]] = []
        odd = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"] or 0))
                path = self.path.removesuffix("?nocatalog")
                odd.seen.append((self.command, path, self.headers["X-Auth-Token"]))
                if path == "/v3/auth/tokens" and odd.logins != 201:
                    self.reply(odd.logins, odd.headers, odd.body)
                elif path == "/v3/auth/tokens":
                    times = {"issued_at": "2000-01-01T00:00:00Z", "expires_at": "2999-01-01T00:00:00Z"}
                    token = {"methods": ["password"], "user": {"id": "qinling"}, **times}
                    self.reply(201, {"X-Subject-Token": "token-of-qinling"}, json.dumps({"token": token}).encode())
                else:
                    self.reply(odd.status, odd.headers, odd.body)

            def do_DELETE(self) -> None:
                odd.seen.append((self.command, self.path, self.headers["X-Auth-Token"]))
                self.reply(odd.status, odd.headers, odd.body)

            def do_GET(self) -> None:
                odd.seen.append((self.command, self.path, self.headers["X-Auth-Token"]))
                self.reply(200, {}, b'{"trust": {"id": "stolen"}}')

            def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v3"


@contextlib.contextmanager
def odd_keystone() -> Iterator[OddKeystone]:
    keystone = OddKeystone()
    thread = threading.Thread(target=keystone.server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield keystone
    finally:
        keystone.server.shutdown()
        thread.join()
        keystone.server.server_close()
