"""Sends answers over HTTP/1; the head and the first piece of the body go out in one packet."""

from __future__ import annotations

import time

from gunicorn import util
from gunicorn.http.wsgi import Response
from gunicorn.util import hop_headers

# A larger first piece is sent separately, so that it is not copied.
_MOST_COPIED = 64 * 1024
# Gunicorn looks at the values of these headers, or does not send them.
_MEANINGFUL = hop_headers | {"content-length"}
# Names of other headers that Gunicorn has accepted.
_known_names: set[str] = set()
_MOST_KNOWN = 100


class Answer(Response):  # type: ignore[misc]  # Gunicorn has no types
    """One answer to one request."""

    headers_sent: bool

    def default_headers(self) -> list[str]:
        """The status line and the headers that the server adds."""
        major, minor = self.req.version
        connection = "close" if self.should_close() else "keep-alive"
        headers = [
            f"HTTP/{major}.{minor} {self.status}\r\n",
            f"Server: {self.version}\r\nDate: {_date()}\r\nConnection: {connection}\r\n",
        ]
        if self.chunked:
            headers.append("Transfer-Encoding: chunked\r\n")
        return headers

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Check the headers of the application and take them. Gunicorn checks each name once, and unusual values.

        Raises:
            InvalidResponseHeader, InvalidResponseHeaderName, TypeError: a header is invalid.
        """
        for name, value in headers:
            if name in _known_names and value.isascii() and value.isprintable():
                self.headers.append((name, value.strip(" ")))
            elif name == "content-length" and value.isascii() and value.isdecimal():  # as Falcon makes it
                self.response_length = int(value)
                self.headers.append((name, value))
            else:
                super().process_headers([(name, value)])
                if name.lower() not in _MEANINGFUL and len(_known_names) < _MOST_KNOWN:
                    _known_names.add(name)

    def write(self, piece: bytes) -> None:
        """Send a piece of the body; the head goes before the first piece."""
        if (
            self.headers_sent
            or self.response_length != len(piece)
            or len(piece) > _MOST_COPIED
            or self.req.method == "HEAD"
            or self.status_code in (204, 304)
        ):
            super().write(piece)
            return
        lines = self.default_headers()
        lines += [f"{name}: {value}\r\n" for name, value in self.headers]
        head = "".join([*lines, "\r\n"]).encode("latin-1")
        self.headers_sent = True
        self.sent = len(piece)
        self.sock.sendall(head + piece)


_cached_date: tuple[int, str] = (0, "")


def _date() -> str:
    """The value of the `Date` header, computed at most once a second."""
    global _cached_date
    now = int(time.time())
    if _cached_date[0] != now:
        _cached_date = now, util.http_date(now)
    return _cached_date[1]
