"""The headers that belong to one connection, which are not passed on with a request or an answer."""

from __future__ import annotations

_HEADERS = frozenset(
    {
        "connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
        "te", "trailer", "trailers", "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def hop_by_hop(connection: str | None) -> frozenset[str]:
    """The lower-case names of these headers, with those that the header `Connection` names.

    Args:
        connection: the value of `Connection`; None: there is none.
    """
    if not connection:
        return _HEADERS
    return _HEADERS.union(name.strip().lower() for name in connection.split(","))
