"""What a proxy in front of the service says of a request: by which address its client reached the proxy.

`Api` calls `TrustedProxies.apply` before anything else looks at a request. It changes the WSGI environment, so that
links in answers name that address. The headers of other peers change nothing, and nothing else reads them.

- `X-Forwarded-Proto`, `X-Forwarded-Host` and `X-Forwarded-Prefix` are used. Of a list the last item counts: the trusted
  proxy has added it, those before it may be the client's own.
- `X-Forwarded-For` is not used: nothing here depends on a client's address.
- `Forwarded` (RFC 7239) is not used: proxies that set the other headers pass it on as their clients wrote it.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, MutableMapping
from typing import Any

from qinling_falcon.settings import Network

OWN_HOST = "qinling.own_host"
"""Where the environment keeps the request's own `Host` when a proxy has named another."""

HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
"""A name or an address, and a port."""

_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~%-]+)+")


class TrustedProxies:
    """The peers whose `X-Forwarded-…` headers are believed.

    Args:
        networks: where they are.
    """

    def __init__(self, networks: Iterable[Network]):
        self._networks = tuple(networks)
        self._trusts = functools.lru_cache(maxsize=256)(self._find_out)

    def apply(self, env: MutableMapping[str, Any]) -> None:
        """Replace scheme, host and prefix in `env` by those that a trusted peer names; leave what it doesn't name."""
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
