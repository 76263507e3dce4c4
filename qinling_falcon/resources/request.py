"""The request as our resources see it: its id, its caller, and a body that can always be read."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import falcon
from falcon.stream import BoundedStream
from falcon.typing import ReadableIO

from qinling_falcon.auth.identity import Identity
from qinling_falcon.errors import BadRequest, QinlingError
from qinling_falcon.models import clock
from qinling_falcon.models.scope import Context
from qinling_falcon.resources.unfinished import Arriving, UnfinishedBodies, UnfinishedBody

if TYPE_CHECKING:
    from qinling_falcon.resources.open_answers import OpenAnswers

HAS_WHOLE_BODY = "qinling_falcon.has_whole_body"
"""The key of a WSGI environment that says whether the server has received the whole body already."""

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Only a bound for the stream itself: whoever reads a body names its own, smaller limit.
_CHUNKED_LIMIT = 64 * 1024 * 1024
# Bodies are read and counted in pieces of this size.
_PIECE = 64 * 1024


def new_request_id() -> str:
    """A name for a request that has none."""
    return f"req-{clock.random_id()}"


class Request(falcon.Request):
    """A Falcon request with the attributes that our middleware sets.

    Attributes:
        request_id: the id of the request in answers and logs; the client's `X-Request-Id`, if that is well-formed.
        identity: the authenticated caller. Not set for open resources.
        caller: the context of `identity`; for a delivery to a webhook, that of the webhook's project.
        open_answers: counts answers that are sent in parts.
        reference_client: whether python-qinlingclient sent the request (also from Horizon). It needs enveloped lists
            without pages, and sends fields that the service ignores.
        started: `time.perf_counter()` at the arrival.
        arriving: the bodies that this process is receiving.
    """

    __slots__ = (
        "_receiving", "arriving", "caller", "identity", "open_answers", "reference_client", "request_id", "started",
    )  # fmt: skip

    request_id: str
    arriving: Arriving
    identity: Identity
    caller: Context
    open_answers: OpenAnswers
    reference_client: bool
    started: float

    def __init__(self, env: dict[str, Any], options: falcon.RequestOptions | None = None) -> None:
        super().__init__(env, options)
        self.started = time.perf_counter()
        given = env.get("HTTP_X_REQUEST_ID")
        self.request_id = given if given and _SANE_ID.fullmatch(given) else new_request_id()
        self.reference_client = False
        self._receiving: UnfinishedBody | None = None

    @property
    def client(self) -> Any:
        """The client's socket; None on a server that does not provide it."""
        return self.env.get("gunicorn.socket")

    @property
    def has_whole_body(self) -> bool:
        """Whether the whole body has arrived, so that reading it does not wait for the client."""
        return bool(self.env.get(HAS_WHOLE_BODY))

    def receiving(self, bodies: UnfinishedBodies) -> UnfinishedBody:
        """Count this request's body for the caller's project while the returned `with` block reads it."""
        self._receiving = bodies.receiving(self.caller.project_id, self.client)
        return self._receiving

    def read_client(self, stream: ReadableIO, size: int) -> bytes:
        """Read `size` bytes of the body; fewer only at its end.

        Raises:
            RequestTimeout: the client sends too slowly.
            Unavailable: too many bodies are arriving.
            BadRequest: the client stopped before the end of the body, or sent broken chunks.
        """
        pieces = []
        left = size
        while left > 0:
            if self._receiving is not None:
                self._receiving.expects()
            try:
                piece = stream.read(min(left, _PIECE))
            except QinlingError:
                raise
            except Exception as error:
                # WSGI servers raise exceptions of many types for broken connections and broken chunks.
                raise BadRequest("The request body could not be read.") from error
            if self._receiving is not None:
                self._receiving.received(len(piece))
            if not piece:
                break
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    @property
    def bounded_stream(self) -> BoundedStream:
        """The body as a stream. A body without a Content-Length works on servers that end the stream (Gunicorn does).

        Reading raises the errors of `read_client`.
        """
        if self._bounded_stream is None:
            length = self.content_length
            if length is None:
                length = _CHUNKED_LIMIT if self.env.get("wsgi.input_terminated") else 0
            self._bounded_stream = BoundedStream(cast(BinaryIO, _ClientStream(self)), length)
        return self._bounded_stream


class _ClientStream:
    """The file object that Falcon reads the body from."""

    def __init__(self, req: Request):
        self._req = req

    def read(self, size: int) -> bytes:
        return self._req.read_client(self._req.stream, size)
