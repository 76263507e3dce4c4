"""A proxy in front of a Valkey on a Unix socket. It counts scripts, and holds back one of them or the reply to it."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from qinling_falcon.pool.lua import library

_READ_SIZE = 65536


class ValkeyProxy:
    """The proxy. Each connection to it is a connection to the Valkey.

    Args:
        folder: holds the socket; its path must be short.
        valkey_url: the Valkey's, as `unix://…`.

    Attributes:
        url: what clients connect to.
        runs: how many times clients have asked for each script, by name.
    """

    def __init__(self, folder: Path, valkey_url: str):
        self._behind = valkey_url.removeprefix("unix://")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "p.sock"))
        self._listener.listen()
        self.url = f"unix://{folder / 'p.sock'}"
        self.runs: Counter[str] = Counter()
        self._names = {_sent(script): script for script in library().functions}
        self._to_hold: bytes | None = None
        self._to_delay: bytes | None = None
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._links: list[_Link] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def hold_reply_to(self, script: str) -> None:
        """Forward the next run of this script, but not its reply, nor any later reply on its connection."""
        self._to_hold = _sent(script)

    def delay(self, script: str) -> None:
        """Do not forward the next run of this script, nor any later command on its connection, before `go_on`."""
        self._may_go_on.clear()
        self._to_delay = _sent(script)

    def is_delaying(self) -> bool:
        """Whether the script was run, and is not forwarded."""
        return self._to_delay is None and not self._may_go_on.is_set()

    def go_on(self) -> None:
        """Forward what was delayed."""
        self._to_delay = None
        self._may_go_on.set()

    def cut_held(self) -> None:
        """Close the connections whose replies are held back."""
        for link in self._links:
            if link.is_held:
                link.close()

    def close(self) -> None:
        """Close everything."""
        self.go_on()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for link in self._links:
            link.close()
        for link in self._links:
            link.join()

    def note(self, link: _Link, commands: bytes) -> None:
        """Commands that are about to be forwarded."""
        for sent, name in self._names.items():
            self.runs[name] += commands.count(sent)
        if self._to_hold is not None and self._to_hold in commands:
            self._to_hold = None
            link.is_held = True
        if self._to_delay is not None and self._to_delay in commands:
            self._to_delay = None
            self._may_go_on.wait()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener was shut down
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._behind)
            self._links.append(_Link(self, client, server))


class _Link:
    """One client's connection through the proxy.

    Attributes:
        is_held: whether replies are held back.
    """

    def __init__(self, proxy: ValkeyProxy, client: socket.socket, server: socket.socket):
        self.is_held = False
        self._proxy = proxy
        self._client, self._server = client, server
        self._threads = [threading.Thread(target=each) for each in (self._forward_commands, self._forward_replies)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Close the connection at both ends."""
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):  # the other thread, or the peer, has closed it
                end.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Wait until nothing is forwarded any more."""
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    def _forward_commands(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(_READ_SIZE):
                self._proxy.note(self, data)
                self._server.sendall(data)
        self.close()

    def _forward_replies(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(_READ_SIZE):
                if not self.is_held:
                    self._client.sendall(data)
        self.close()


def _sent(script: str) -> bytes:
    """What stands in a command that runs this script."""
    return f"{library().functions[script]}\r\n".encode()


@contextlib.contextmanager
def valkey_proxy(valkey_url: str) -> Iterator[ValkeyProxy]:
    """A running proxy in front of the Valkey with this URL."""
    with tempfile.TemporaryDirectory(prefix="vp", dir="/tmp") as folder:
        proxy = ValkeyProxy(Path(folder), valkey_url)
        try:
            yield proxy
        finally:
            proxy.close()
