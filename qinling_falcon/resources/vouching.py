"""Who puts a function's code in vouches for it: a trust of that caller is what the code runs by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from qinling_falcon.errors import Forbidden
from qinling_falcon.invocation.sessions import TrustRefused
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services


@contextlib.contextmanager
def vouched(services: Services, req: Request, source: str) -> Iterator[str | None]:
    """Around the write of a row with the caller's code: the id of the trust that the row is to name.

    None, for a row that is to name none: without Keystone, for an image, and for a package of a caller whose token
    can't make trusts. The trust is taken back when the body fails. After a crash before the row is written, the sweep
    deletes it an hour later.

    Raises:
        Forbidden: the code is in Swift, from where it is fetched by the trust, and the caller can't make one.
        Unauthorized, Unavailable, BadGateway: as `Trusts.make`.
    """
    trusts = services.trusts
    if trusts is None or source == "image":
        yield None
        return
    try:
        trust_id = trusts.make(req.identity)
    except TrustRefused as error:
        if source == "swift":
            message = "Code in Swift is fetched by a trust of its user, and this token can make none"
            raise Forbidden(f"{message} (those of application credentials can't): {error}") from None
        yield None
        return
    try:
        yield trust_id
    except BaseException:
        trusts.forgo(trust_id)
        raise


def sweep_trusts(services: Services) -> None:
    """After a write that may have doomed some: have them deleted at Keystone; what fails, the pool manager sweeps."""
    if services.trusts is not None:
        services.trusts.sweep_soon()
