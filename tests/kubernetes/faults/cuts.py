"""A relay between a service and the API server that cuts connections at random moments."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import socketserver
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from tests.kubernetes.relay import pump

_LONGEST_S = 2.0


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with socket.create_connection(self.server.upstream) as behind:
            ends = (behind, self.request)
            threading.Thread(target=self._cut_later, args=ends, daemon=True).start()
            back = threading.Thread(target=pump, args=ends, daemon=True)
            back.start()
            pump(self.request, behind)
            back.join()

    def _cut_later(self, *ends: socket.socket) -> None:
        self.server.cutting.wait()
        time.sleep(random.uniform(0.0, _LONGEST_S))
        for end in ends:
            with contextlib.suppress(OSError):  # it is closed already
                end.shutdown(socket.SHUT_RDWR)
                self.server.cuts += 1


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, upstream: tuple[str, int]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.cutting = threading.Event()
        self.cuts = 0


class Cuts:
    """Cuts connections while it is told to.

    Args:
        kubeconfig: leads through the relay.
        server: the relay.
    """

    def __init__(self, kubeconfig: Path, server: _Server):
        self.kubeconfig = kubeconfig
        self._server = server

    @property
    def count(self) -> int:
        """How many ends of connections were cut; each connection has two."""
        return self._server.cuts

    def begin(self) -> None:
        """From now on, cut each connection within two seconds."""
        self._server.cutting.set()

    def end(self) -> None:
        """Cut only those connections that are open now."""
        self._server.cutting.clear()


@contextlib.contextmanager
def cut_connections(kubeconfig: Path, folder: Path) -> Iterator[Cuts]:
    """Start a relay before the API server.

    Args:
        kubeconfig: names the API server.
        folder: for the kubeconfig that leads through the relay.
    """
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    upstream = urllib.parse.urlsplit(cluster["server"])
    with _Server((str(upstream.hostname), upstream.port or 443)) as server:
        cluster["server"] = f"https://127.0.0.1:{server.server_address[1]}"
        # The server's certificate may not name 127.0.0.1.
        cluster["tls-server-name"] = upstream.hostname
        ours = folder / "kubeconfig"
        ours.write_text(json.dumps(config))
        ours.chmod(0o600)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Cuts(ours, server)
        finally:
            server.cutting.set()  # which ends all threads
            server.shutdown()
            thread.join()
