"""A proxy in front of Keystone that counts questions about tokens, and can answer in Keystone's place."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

from tests.servers.openstack import Keystone

Answer = Callable[[BaseHTTPRequestHandler], bool]
VALIDATION = "/v3/auth/tokens"
_KEPT = ("X-Auth-Token", "X-Subject-Token", "Content-Type", "Accept", "OpenStack-Identity-Access-Rules")


@dataclass
class Proxy:
    """What the proxy has seen, and what it does.

    Attributes:
        url: Keystone's, through the proxy; the catalogue in its answers names it too, in place of Keystone's own.
        asked: tokens that were asked about, in order.
        answer: answers a request itself and says so, or leaves it to Keystone.
    """

    url: str
    asked: list[str] = field(default_factory=list)
    answer: Answer | None = None

    @contextlib.contextmanager
    def answering(self, answer: Answer) -> Iterator[None]:
        """Answer so meanwhile."""
        self.answer = answer
        try:
            yield
        finally:
            self.answer = None


def says(status: int, body: str, *, method: str | None = None, **headers: str) -> Answer:
    """Answers all requests, or those of one method, alike."""

    def answer(handler: BaseHTTPRequestHandler) -> bool:
        if method is not None and handler.command != method:
            return False
        handler.send_response(status)
        for name, value in ({"Content_Type": "application/json"} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(body.encode())))
        handler.end_headers()
        handler.wfile.write(body.encode())
        return True

    return answer


def drips(handler: BaseHTTPRequestHandler) -> bool:
    """Sends a byte every tenth of a second, which no timeout of a single read notices."""
    with contextlib.suppress(OSError):
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        ended = threading.Event()
        for _ in range(1000):
            handler.wfile.write(b" ")
            ended.wait(0.1)
    return True


@contextlib.contextmanager
def running_proxy(keystone: Keystone) -> Iterator[Proxy]:
    """A proxy in front of `keystone`."""
    behind = keystone.url.removesuffix("/v3")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().handle_one_request()

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            if self.command == "GET" and self.path.startswith(VALIDATION):
                proxy.asked.append(self.headers["X-Subject-Token"])
            if proxy.answer is not None and proxy.answer(self):
                return
            headers = {name: self.headers[name] for name in _KEPT if name in self.headers}
            try:
                answer = requests.request(self.command, behind + self.path, headers=headers, data=body, timeout=60)
            except requests.ConnectionError:
                self.close_connection = True  # as if there was nobody here either
                return
            content = answer.text.replace(behind, here).encode()
            self.send_response(answer.status_code)
            for name in ("Content-Type", "X-Subject-Token", "WWW-Authenticate"):
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_DELETE = do_PUT = do_PATCH = do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    here = f"http://127.0.0.1:{server.server_port}"
    proxy = Proxy(f"{here}/v3")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
