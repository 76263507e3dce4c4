"""The OpenStack session of a function: made when it is asked for, of a token that came with the call.

keystoneauth1 is the package's, or this Python's; nothing here needs it until then.
"""

from __future__ import annotations

from typing import Any

SESSION = "os_session"
ERROR = "os_session_error"


class SessionContext(dict):  # type: ignore[type-arg]  # Python 3.9 is enough for this program
    """A call's `context` with a session in it.

    Neither the session nor its token is stored before somebody asks: a context that is printed shows none.
    """

    __slots__ = ("_openstack",)

    def __init__(self, values: dict[str, Any], openstack: dict[str, Any]) -> None:
        super().__init__(values)
        self._openstack = openstack

    def __missing__(self, key: object) -> Any:
        if key not in (SESSION, ERROR):
            raise KeyError(key)
        session, error = None, self._openstack.get("error")
        if error is None:
            try:
                session = _make(**self._openstack)
            except ImportError as missing:
                error = f"the function's package has no keystoneauth1: {missing}"
        self[SESSION] = session
        self[ERROR] = error
        return self[key]

    def __contains__(self, key: object) -> bool:
        return key in (SESSION, ERROR) or super().__contains__(key)

    def get(self, key: Any, default: Any = None) -> Any:
        """As of any dict."""
        return self[key] if key in (SESSION, ERROR) else super().get(key, default)


def _make(auth_url: str, token: str, about: dict[str, Any]) -> Any:
    from keystoneauth1.access import AccessInfoV3
    from keystoneauth1.identity.base import BaseIdentityPlugin
    from keystoneauth1.session import Session

    class GivenToken(BaseIdentityPlugin):
        """Authenticates by one token, which can't be exchanged for another, nor ask Keystone about itself."""

        def __init__(self) -> None:
            super().__init__(auth_url=auth_url, reauthenticate=False)

        def get_auth_ref(self, session: Any) -> Any:
            url = auth_url.rstrip("/") + "/auth/catalog"
            answer = session.get(url, headers={"X-Auth-Token": token}, authenticated=False)
            return AccessInfoV3({"token": {**about, "catalog": answer.json()["catalog"]}}, auth_token=token)

        def invalidate(self) -> bool:
            """There is no other token to try with."""
            return False

    return Session(auth=GivenToken())
