"""Parses the heads of requests: each different head once, because clients send the same one again and again.

Gunicorn's parser takes 28 µs for a small head. What it makes of a head depends on nothing but its bytes, the client's
address and the configuration.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http.body import Body, LengthReader
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.web.environ import head_environ

# A head that is larger is parsed each time.
_LARGEST = 2048
_KEPT = 256

_PARSED = (
    "method", "uri", "path", "query", "fragment", "version", "headers", "scheme", "_expected_100_continue",
    "head_environ", "_body_length",
)  # fmt: skip
"""The attributes of a request that follow from its head. They are not changed afterwards."""

# Heads with these headers are not remembered, because a dump of this process's memory shall not hold a list of tokens.
_SECRET = frozenset({"AUTHORIZATION", "COOKIE", "X-AUTH-TOKEN", "X-SERVICE-TOKEN", "X-SUBJECT-TOKEN"})

_known: BoundedCache[tuple[Any, bytes], dict[str, Any]] = BoundedCache(_KEPT)


class HeadParser(RequestParser):  # type: ignore[misc]  # Gunicorn has no types
    """Gunicorn's parser of one connection, with remembered heads."""

    class mesg_class(Request):  # type: ignore[misc]  # as above
        """A request whose head is parsed only if it is new.

        Attributes:
            head_environ: see the function of this name.
        """

        head_environ: dict[str, Any]
        _body_length: int | None = None
        _key: tuple[Any, bytes] | None = None  # of a new head that is to be remembered

        def parse(self, unreader: Any) -> bytes:
            """Parse the head. Returns the bytes after it that have arrived already."""
            data: bytes = unreader.read()
            if not data:
                raise StopIteration  # the client has closed the connection
            end = data.find(b"\r\n\r\n") + 4
            if not 4 <= end <= _LARGEST:
                return self._parse_new(unreader, data)
            key = self.peer_addr[0] if isinstance(self.peer_addr, tuple) else None, data[:end]
            parsed = _known.get(key)
            if parsed is not None:
                self.__dict__.update(parsed)
                return data[end:]
            rest = self._parse_new(unreader, data)
            is_secret = any(name in _SECRET for name, _ in self.headers)
            if rest == data[end:] and not is_secret and self.cfg.proxy_protocol == "off":
                self._key = key
            return rest

        def set_body_reader(self) -> None:
            """Make the reader of the body, as the headers describe it."""
            if self._body_length is not None:
                self.body = Body(LengthReader(self.unreader, self._body_length))
                return
            super().set_body_reader()
            if self._key is not None and isinstance(self.body.reader, LengthReader):
                self._body_length = self.body.reader.length
                _known.put(self._key, {name: getattr(self, name) for name in _PARSED})

        def _parse_new(self, unreader: Any, data: bytes) -> bytes:
            unreader.unread(data)
            rest: bytes = super().parse(unreader)
            self.head_environ = head_environ(self)
            return rest
