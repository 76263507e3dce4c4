"""The request as our resources see it: its id, its caller, and a body that can always be read."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any, BinaryIO, cast

import falcon
from falcon.stream import BoundedStream
from falcon.typing import ReadableIO

from qinling_falcon.auth.identity import Identity
from qinling_falcon.errors import BadRequest
from qinling_falcon.models.scope import Context

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Only a bound for the stream itself: whoever reads a body names its own, smaller limit.
_CHUNKED_LIMIT = 64 * 1024 * 1024


def new_request_id() -> str:
    """A name for a request that has none."""
    return f"req-{uuid.uuid4()}"


class Request(falcon.Request):
    """A Falcon request with what our middleware has found out.

    Attributes:
        request_id: names the request in answers and logs; the client's own `X-Request-Id`, if it is sane.
        identity: who sent it; set before any resource that is not open is called.
        caller: the context of `identity`.
        reference_client: sent by python-qinlingclient (or Horizon, by its means), which needs enveloped, unpaged
            lists, and sends fields that nobody reads.
        started: `time.perf_counter()` at its arrival.
    """

    __slots__ = ("caller", "identity", "reference_client", "request_id", "started")

    request_id: str
    identity: Identity
    caller: Context
    reference_client: bool
    started: float

    def __init__(self, env: dict[str, Any], options: falcon.RequestOptions | None = None) -> None:
        super().__init__(env, options)
        self.started = time.perf_counter()
        given = env.get("HTTP_X_REQUEST_ID")
        self.request_id = given if given and _SANE_ID.fullmatch(given) else new_request_id()
        self.reference_client = False

    @property
    def bounded_stream(self) -> BoundedStream:
        """The body; one without a Content-Length too, on servers that end the stream after it (Gunicorn does).

        Reading from it raises `BadRequest` when the client fails to send what it promised.
        """
        if self._bounded_stream is None:
            length = self.content_length
            if length is None:
                length = _CHUNKED_LIMIT if self.env.get("wsgi.input_terminated") else 0
            self._bounded_stream = BoundedStream(cast(BinaryIO, _ClientStream(self.stream)), length)
        return self._bounded_stream


class _ClientStream:
    """Tells a client's broken body from troubles of our own, such as a full disk."""

    def __init__(self, stream: ReadableIO):
        self._stream = stream

    def read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except Exception as error:
            # Servers raise what they like here: errors of the connection, of broken chunks, of their own.
            raise BadRequest("The request body could not be read.") from error
