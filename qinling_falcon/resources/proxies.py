"""Applies the `X-Forwarded-…` headers of trusted reverse proxies, so that links in answers name the proxy's address.

`Api` calls `TrustedProxies.apply` first for each request. It changes the WSGI environment. The headers of other
clients have no effect.

- `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Forwarded-Prefix` are used. If a header is a list, the last item
  counts, because the trusted proxy added it. The client may have sent the others.
- `X-Forwarded-For` is not used, because the service does not use the client's address.
- `Forwarded` (RFC 7239) is not used, because proxies that set the other headers pass it through unchanged.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from qinling_falcon.settings import Network

OWN_HOST = "qinling.own_host"
"""The key in the WSGI environment for the request's own `Host`, if a proxy has named another host."""

HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""A name or an address, and a port."""

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%-]+)+")


class TrustedProxies:
    """The proxies whose `X-Forwarded-…` headers are used.

    Args:
        networks: their addresses.
    """

    def __init__(self, networks: Iterable[Network]):
        self._networks = tuple(networks)
        self._trusts = functools.lru_cache(maxsize=256)(self._find_out)

    def apply(self, env: MutableMapping[str, Any]) -> None:
        """Set scheme, host and prefix in `env` from the headers of a trusted proxy, as far as it sent them."""
        if not self._trusts(env.get("REMOTE_ADDR", "")):
            return
        scheme = _last(env, "HTTP_X_FORWARDED_PROTO").lower()
        if scheme in ("http", "https"):
            env["wsgi.url_scheme"] = scheme
        host = _last(env, "HTTP_X_FORWARDED_HOST")
        if HOST.fullmatch(host):
            if "HTTP_HOST" in env:
                env[OWN_HOST] = env["HTTP_HOST"]
            env["HTTP_HOST"] = host
        prefix = _last(env, "HTTP_X_FORWARDED_PREFIX").rstrip("/")
        if _PREFIX.fullmatch(prefix):
            env["SCRIPT_NAME"] = prefix

    def _find_out(self, peer: str) -> bool:
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


def _last(env: MutableMapping[str, Any], name: str) -> str:
    return str(env.get(name, "")).rpartition(",")[2].strip()
