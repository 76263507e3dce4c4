"""Every error that the service raises on purpose, with its HTTP status.

The shape that a caller sees is made in one place (`api.py`) from these
attributes: `{"faultstring", "faultcode", "debuginfo", "request_id"}` and, for
validation, `errors: {field: [messages]}`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FieldErrors = Mapping[str, Sequence[str]]


class QinlingError(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: what was wrong and where, for the caller to read.
        errors: messages by field name, when the request's content is at fault.
        retry_after_s: seconds after which a retry makes sense (`Retry-After`).

    Attributes:
        headers: of the answer, beside those.
    """

    status: int = 500
    headers: Mapping[str, str] = {}

    def __init__(self, message: str, *, errors: FieldErrors | None = None, retry_after_s: int | None = None):
        super().__init__(message)
        self.message = message
        self.errors = errors
        self.retry_after_s = retry_after_s


class BadRequest(QinlingError):
    """The request's content is wrong."""

    status = 400


class BadPackage(BadRequest):
    """A package is not a zip archive, is broken, or holds something that is not allowed."""


class Unauthorized(QinlingError):
    """Nobody, or nobody known, is calling.

    Args:
        message: why.
        challenge: where a token can be had (`WWW-Authenticate`).
    """

    status = 401

    def __init__(self, message: str, *, challenge: str):
        super().__init__(message)
        self.headers = {"WWW-Authenticate": challenge}


class Forbidden(QinlingError):
    """Policy forbids it, or the resource is still in use."""

    status = 403


class QuotaExceeded(Forbidden):
    """The request would exceed a quota of the project.

    Args:
        kind: the quota's name, as in `GET /v1/quotas`.
        limit: the project's limit.
        used: the project's use.
        more: the amount that the refused request would have added.
    """

    def __init__(self, kind: str, limit: int, used: int, more: int = 1):
        adds = f", and this request adds {more}" if more != 1 else ""
        super().__init__(
            f"Quota exceeded for {kind}: limit {limit}, used {used}{adds}."
            f" {_ADVICE.get(kind, f'Delete some {kind}')}, or ask an admin for a higher quota."
        )


_ADVICE = {
    "package_bytes": "Delete some functions or versions",
    "kept_workers": "Lower the min_warm of some functions, or delete some versions that have one",
}


class NotFound(QinlingError):
    """Unknown, or not the caller's."""

    status = 404


class MethodNotAllowed(QinlingError):
    """The resource can't do this.

    Args:
        message: why.
        allowed: the methods that it has (`Allow`).
    """

    status = 405

    def __init__(self, message: str, *, allowed: str):
        super().__init__(message)
        self.headers = {"Allow": allowed}


class RequestTimeout(QinlingError):
    """The client has sent its request too slowly."""

    status = 408


class Conflict(QinlingError):
    """The resource is in a state that forbids this now."""

    status = 409


class LengthRequired(QinlingError):
    """An upload without a Content-Length."""

    status = 411


class TooLarge(QinlingError):
    """A body, package, input or archive above its limit."""

    status = 413


class UnsupportedMediaType(QinlingError):
    """A media type that this resource doesn't read."""

    status = 415


class Unprocessable(QinlingError):
    """An `Idempotency-Key` that was used for another request."""

    status = 422


class Misdirected(QinlingError):
    """The request's host is not one of this service's hosts."""

    status = 421


class TooManyRequests(QinlingError):
    """A webhook gets deliveries faster than its rate limit allows."""

    status = 429


class NotSupported(QinlingError):
    """A part of the API that this installation can't serve."""

    status = 501


class BadGateway(QinlingError):
    """A neighbour (Swift, Keystone) has answered what makes no sense; nothing was lost."""

    status = 502


class Unavailable(QinlingError):
    """No free worker in time, or a neighbour (Redis, database, Keystone, Swift) is away.

    Nothing was lost, except with `NotRecorded`.
    """

    status = 503


class NotRecorded(Unavailable):
    """A function has run, but its result could not be recorded. A retry would run the function a second time.

    Args:
        execution_id: the execution; also an attribute.
        ran: what is known of the run: "has run" or "may have run".
    """

    def __init__(self, execution_id: str, ran: str):
        super().__init__(
            f"The function {ran}, but the database did not record the result of execution {execution_id}."
            " Repeat the call only if running the function twice does no harm."
            f" When the database is back, GET /v1/executions/{execution_id} shows what was recorded."
        )
        self.execution_id = execution_id
