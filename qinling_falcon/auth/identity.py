"""Who sent a request, and the rights that came with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from qinling_falcon.models.scope import Context


@dataclass(frozen=True, slots=True)
class Identity:
    """A caller, as the authenticator found it.

    Attributes:
        context: the project that owns what the request makes, and what its caller may see.
        token: Keystone's, for what is done with the caller's own rights; None without Keystone.
        object_store: URL of the project's account in Swift, from the token's catalogue; None: there is none.
        role_ids: of the context's roles, whose names another domain may use as well.
        by_credential: the token is an application credential's.
    """

    context: Context
    token: str | None = field(default=None, repr=False)
    object_store: str | None = None
    role_ids: tuple[str, ...] = ()
    by_credential: bool = False
