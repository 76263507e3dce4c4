"""HTTP/1.1 as far as a worker needs it: keep-alive, Content-Length, one answer in one send."""

from __future__ import annotations

import hmac
import io
import json
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from .disk import INSUFFICIENT_STORAGE, DiskError
from .loop import Loop, Stream

if TYPE_CHECKING:
    from typing import TypeAlias

_MAX_HEAD = 32 * 1024
_MAX_BODY = 16 * 1024 * 1024
_RECEIVE = 64 * 1024
_REASONS = {
    200: b"OK", 202: b"Accepted", 400: b"Bad Request", 403: b"Forbidden", 404: b"Not Found", 409: b"Conflict",
    411: b"Length Required", 413: b"Content Too Large", 422: b"Unprocessable Content",
    431: b"Request Header Fields Too Large", 500: b"Internal Server Error",
    INSUFFICIENT_STORAGE: b"Insufficient Storage",
}  # fmt: skip
_STARTS = {
    status: b"HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: " % (status, reason)
    for status, reason in _REASONS.items()
}


class Head(NamedTuple):
    """What the lines before a body say."""

    route: bytes  # b"POST /execute"
    length: int
    authorized: bool
    load: bytes  # the X-Load header
    expects_continue: bool


class _Refused(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


Endpoint: TypeAlias = "Callable[[Connection, Head, bytes], None]"


class HTTPServer:
    """Accepts connections and hands each whole request to its endpoint.

    Args:
        loop: the event loop.
        listener: a listening socket, Unix or TCP.
        secret: the required value of `X-Worker-Secret`, except on open routes.
        endpoints: the endpoints by b"METHOD /path". Each calls `Connection.answer` once, now or later.
        open_routes: the routes that need no secret.
        upload: for the route whose body is a file: the route, the largest body, and a function that opens the file.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        secret: str,
        endpoints: dict[bytes, Endpoint],
        open_routes: frozenset[bytes],
        upload: tuple[bytes, int, Callable[[], io.FileIO]],
    ) -> None:
        self.loop = loop
        self.endpoints = endpoints
        self.upload_route, self.max_upload, self.open_upload = upload
        self._listener = listener
        self._secret = secret.encode()
        self._open_routes = open_routes
        self._heads: dict[bytes, Head] = {}
        listener.setblocking(False)
        loop.watch(listener.fileno(), self._accept)

    def head(self, data: bytes) -> Head:
        """The parsed head; a client repeats itself, so that parsing the same bytes again is spared."""
        head = self._heads.get(data)
        if head is None:
            head = self._parse(data)
            if head.authorized and not head.load:
                if len(self._heads) >= 64:
                    self._heads.clear()
                self._heads[data] = head
        return head

    def close(self) -> None:
        """Accept nothing more."""
        self.loop.forget(self._listener.fileno())
        self._listener.close()

    def _accept(self, _mask: int) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        Connection(self, sock)

    def _parse(self, data: bytes) -> Head:
        lines = data.split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            raise _Refused(400, "not an HTTP/1.1 request")
        length, authorized, load, expects = 0, False, b"", False
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if name == b"content-length":
                if not value.isdigit():
                    raise _Refused(400, "Content-Length is not a number")
                length = int(value[:12])
            elif name == b"x-worker-secret":
                authorized = hmac.compare_digest(value, self._secret)
            elif name == b"x-load":
                load = value
            elif name == b"transfer-encoding":
                raise _Refused(411, "a Content-Length is needed")
            elif name == b"expect":
                expects = value.lower() == b"100-continue"
        route = parts[0] + b" " + parts[1]
        return Head(route, length, authorized or route in self._open_routes, load, expects)


class Connection:
    """One client connection. The next request is read after the answer to the current one."""

    __slots__ = ("_busy", "_data", "_ending", "_head", "_missing", "_server", "_serving", "_stream", "file")

    def __init__(self, server: HTTPServer, sock: socket.socket) -> None:
        self.file: io.FileIO | None = None
        self._server = server
        self._data = b""
        self._head: Head | None = None
        self._missing = 0  # bytes of the body that are not there yet
        self._busy = False
        self._ending = False
        self._serving = False
        self._stream = Stream(server.loop, sock, self._read)

    def answer(self, status: int, body: bytes) -> None:
        """Answer the request; nobody is told when the client has gone."""
        self._busy = False
        try:
            self._stream.send(b"%b%d\r\n\r\n%b" % (_STARTS[status], len(body), body))
        except OSError:
            self.close()
            return
        if self._data and not self._serving:
            self._serve()

    def refuse(self, status: int, message: str) -> None:
        """Answer with an error."""
        self.answer(status, json.dumps({"error": message}).encode())

    def close(self) -> None:
        """End the connection; what it has begun goes on."""
        self._stream.close()
        if self.file is not None:
            self.file.close()

    def _refuse_and_end(self, status: int, message: str) -> None:
        """Refuse, and take what follows for no request; closing at once would take the answer away."""
        self.refuse(status, message)
        self._ending = True
        try:
            self._stream.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()

    def _read(self) -> None:
        try:
            data = self._stream.sock.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
        elif self._ending:
            return
        elif self._busy:
            self._data += data
            if len(self._data) > _MAX_HEAD:
                self.close()
        elif self._head is not None:
            if self._take_body(data):
                self._serve()
        else:
            self._data = self._data + data if self._data else data
            self._serve()

    def _serve(self) -> None:
        self._serving = True
        while self._data and self._begin():
            continue
        self._serving = False

    def _begin(self) -> bool:
        """Begin the next request. Returns False if there is none, or if it is not answered yet."""
        try:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > _MAX_HEAD:
                    raise _Refused(431, "the request's head is too large")
                return False
            head = self._server.head(self._data[:end])
            self._check(head)
        except _Refused as refusal:
            self._data = b""
            self._refuse_and_end(refusal.status, str(refusal))
            return False
        data, self._data = self._data[end + 4 :], b""
        length = head.length
        if len(data) >= length and head.route != self._server.upload_route:
            self._busy = True
            if len(data) > length:
                data, self._data = data[:length], data[length:]
            self._server.endpoints[head.route](self, head, data)
            return not self._busy
        if head.expects_continue:
            self._stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._head, self._missing = head, length
        if head.route == self._server.upload_route:
            try:
                self.file = self._server.open_upload()
            except OSError as error:
                self._refuse_and_end(INSUFFICIENT_STORAGE, str(DiskError(error)))
                return False
        return self._take_body(data)

    def _check(self, head: Head) -> None:
        if not head.authorized:
            raise _Refused(403, "wrong or missing X-Worker-Secret")
        if head.route not in self._server.endpoints:
            raise _Refused(404, "no such endpoint")
        is_upload = head.route == self._server.upload_route
        limit, what = (self._server.max_upload, "package") if is_upload else (_MAX_BODY, "body")
        if head.length > limit:
            raise _Refused(413, f"The {what} is larger than {limit} bytes, the most that a worker takes.")

    def _take_body(self, data: bytes) -> bool:
        """Take a piece of the body, and begin the request when the body is complete. Returns as `_begin`."""
        head = self._head
        assert head is not None
        rest = data[self._missing :]
        self._missing -= min(len(data), self._missing)
        if self.file is not None:
            try:
                piece = memoryview(data)[: len(data) - len(rest)]
                while piece:
                    piece = piece[self.file.write(piece) :]
            except OSError as error:
                self.file.close()  # at once, because the next package needs the disk space
                self.file = None
                self._refuse_and_end(INSUFFICIENT_STORAGE, str(DiskError(error)))
                return False
            data = b""
        else:
            data = self._data + data[: len(data) - len(rest)]
        if self._missing:
            self._data = data
            return False
        self._head, self._data, self._busy = None, rest, True
        self._server.endpoints[head.route](self, head, data)
        return not self._busy
