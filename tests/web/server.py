"""A real Gunicorn with the project's configuration and one web process, serving `application.py`."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import psutil

from tests.integration.service import ROOT, free_port, wait_until


class Server:
    """The running server."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]):
        self.port = port
        self.process = process

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def answers(self) -> bool:
        with self.connect() as client:
            return get(client).endswith(b"ok")

    def web_process(self) -> psutil.Process:
        """The process that serves the requests."""
        [found] = psutil.Process(self.process.pid).children()
        return found

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Stop the web process for a while, so that all that is sent meanwhile arrives at once for it."""
        self.web_process().suspend()
        try:
            yield
        finally:
            self.web_process().resume()

    def descriptors(self) -> int:
        """How many files the web process has open."""
        return int(self.web_process().num_fds())

    def stop(self) -> float:
        """Stop the server as an operator does. Returns the seconds that this took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - began


def request(path: str, method: str = "GET", body: bytes = b"", length: int | None = None) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    if method == "POST":
        head += f"Content-Length: {len(body) if length is None else length}\r\n"
    return head.encode() + b"\r\n" + body


def answer(client: socket.socket) -> bytes:
    """Read one answer by its Content-Length. If the connection ends first, returns the bytes so far."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(1)
        if not piece:
            return data
        data += piece
    length = next(line for line in data.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    left = int(length.partition(b":")[2])
    while left > 0:
        piece = client.recv(left)
        if not piece:
            break
        data, left = data + piece, left - len(piece)
    return data


def get(client: socket.socket, path: str = "/") -> bytes:
    client.sendall(request(path))
    return answer(client)


def rest(client: socket.socket) -> bytes:
    """Read until the server ends the connection."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := client.recv(65536):
            data += piece
    return data


@contextlib.contextmanager
def running_server(files: str = "", **settings: Any) -> Iterator[Server]:
    """Run the server with these settings.

    Args:
        files: the limit on open files of each of its processes, as `prlimit` takes it: `100`, or `soft:hard`.
    """
    port = free_port()
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GUNICORN")}
    with tempfile.TemporaryDirectory(prefix="qf-web-") as folder:
        environ |= {"PORT": str(port), "VAR_DIR": folder, "WEB_CONCURRENCY": "1"}
        environ |= {name.upper(): str(value) for name, value in settings.items()}
        config = str(ROOT / "config" / "gunicorn.conf.py")
        command = [sys.executable, "-m", "gunicorn", "-c", config, "--no-control-socket"]
        if files:
            command = ["prlimit", f"--nofile={files}", *command]
        process = subprocess.Popen(
            [*command, "tests.web.application:application"], cwd=ROOT, env=environ, stderr=subprocess.DEVNULL
        )
        server = Server(port, process)

        def up() -> bool:
            with contextlib.suppress(OSError):
                return server.answers()
            return False

        try:
            wait_until("the server answers", up, timeout_s=100)  # a start is slow on a busy host
            yield server
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(30)
