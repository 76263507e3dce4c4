"""A receiver of callbacks, which refuses some of them at first."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_REFUSED = 0.1
_POLL_S = 0.05


@dataclass
class Deliveries:
    """The callbacks that were delivered.

    Attributes:
        seed: chooses which ones are refused once.
        url: where they go.
        ends: the status that each one has told, by its id.
        received: how often each one was sent, by its id.
    """

    seed: int
    url: str = ""
    ends: dict[str, str] = field(default_factory=dict)
    received: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def take(self, callback_id: str, body: bytes) -> int:
        """Take a request. Returns the status of the answer."""
        message = json.loads(body)
        with self._lock:
            self.received[callback_id] += 1
            is_first = self.received[callback_id] == 1
            if is_first and random.Random(f"{self.seed}/{callback_id}").random() < _REFUSED:
                return 503
            self.ends[callback_id] = message["data"]["status"]
            return 204


@contextlib.contextmanager
def receiving(seed: int) -> Iterator[Deliveries]:
    """A receiver on a port of 127.0.0.1."""
    deliveries = Deliveries(seed)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(deliveries.take(self.headers["webhook-id"], body))
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """The process that sent the request was killed."""

    with Server(("127.0.0.1", 0), Handler) as server:
        deliveries.url = f"http://127.0.0.1:{server.server_address[1]}/done"
        thread = threading.Thread(target=server.serve_forever, args=(_POLL_S,))
        thread.start()
        try:
            yield deliveries
        finally:
            server.shutdown()
            thread.join()
