"""A receiver of callbacks: a real HTTP server on a port of 127.0.0.1, whose answers a test chooses."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True, slots=True)
class Received:
    """A request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """What the server has received, and what it answers.

    Attributes:
        port: the port of the server.
        received: the requests, in the order in which they came.
        statuses: the statuses of the next answers; afterwards it answers 204.
        answer: writes another answer than a status without a body.
    """

    port: int = 0
    received: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    answer: Callable[[BaseHTTPRequestHandler], None] | None = None

    def url(self, path: str = "/done", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"


@contextlib.contextmanager
def receiver(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver; with a context, one that speaks TLS."""
    made = Receiver()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.received.append(Received(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if made.answer is not None:
                with contextlib.suppress(OSError):
                    made.answer(self)
                self.close_connection = True
                return
            status = made.statuses.pop(0) if made.statuses else 204
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        # The default is 5. The kernel drops a connection beyond it, and the sender repeats it 1 s, 3 s and 7 s later.
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """A client that ends the connection is what some tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    made.port = server.server_address[1]
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
