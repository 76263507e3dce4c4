"""What `storage/swift.py` is told and tells, for those who may have no Swift to talk to and don't load it."""

from __future__ import annotations

from dataclasses import dataclass, field

from qinling_falcon.errors import Unavailable


class ObjectMissing(Exception):
    """No such object or container in this account; or not all of its segments."""


class ObjectForbidden(Exception):
    """The account's owner lets this user not do that; so Swift says, too, of what another account may not have."""


class TokenRefused(Unavailable):
    """Swift does not believe the token: it has ended, or Swift can't ask Keystone, which it doesn't tell apart."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account in Swift, and a token by which it is used."""

    url: str
    token: str = field(repr=False)
