"""Lets pods reach a server of a test that listens on a Unix socket."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path


class _Handler(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as behind:
            behind.connect(str(self.server.behind))
            back = threading.Thread(target=pump, args=(behind, self.request), daemon=True)
            back.start()
            pump(self.request, behind)
            back.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, host: str, behind: Path):
        super().__init__((host, 0), _Handler)
        self.behind = behind


@contextlib.contextmanager
def tcp_relay(host: str, behind: Path) -> Iterator[int]:
    """Accept TCP connections for a server on a Unix socket.

    Args:
        host: the address to listen on.
        behind: the Unix socket.

    Yields:
        The port.
    """
    with _Server(host, behind) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def pump(source: socket.socket, target: socket.socket) -> None:
    """Pass on what comes from one connection to another, until one of them ends."""
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
