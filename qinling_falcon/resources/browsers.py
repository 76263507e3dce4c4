"""Keeps the web pages that an operator has open from calling a service without authentication.

With `AUTH_MODE=noauth` everybody who reaches the service is its admin, and every page in a browser on the same machine
or network reaches it. There are two ways, and `BrowserGuard` refuses both:

1. DNS rebinding: the page's own host name is made to lead to this service, so that the browser takes the service for
   the page's own server. Such a request names the page's host in `Host`. An IP address there is safe, because only what
   is served from that address has it as its origin; each is taken where the service listens on all addresses.
2. Requests across origins: a page may send forms and bodiless POSTs anywhere. Browsers name the page's origin in
   `Origin`, and its relation to the service in `Sec-Fetch-Site`. Another port of the same host is another origin.

With `AUTH_MODE=keystone` neither works: a page has no token to send, and the token's header makes a browser ask for
permission first (CORS), which this service never gives.
"""

from __future__ import annotations

import functools
import ipaddress
from typing import Any
from urllib.parse import urlsplit

import falcon

from qinling_falcon.errors import BadRequest, Forbidden, Misdirected
from qinling_falcon.resources.operation import CrossSite, operations_of
from qinling_falcon.resources.proxies import HOST, OWN_HOST
from qinling_falcon.resources.request import Request
from qinling_falcon.settings import Settings, is_loopback

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_OWN_PAGES = ("same-origin", "none")


class BrowserGuard:
    """Refuses requests that the pages of other sites send, and those for another host."""

    def __init__(self, settings: Settings):
        self._noauth = settings.auth_mode == "noauth"
        self._names_host = settings.public_endpoint is None
        self._open: dict[object, dict[str, CrossSite]] = {}
        self._names = {"localhost", settings.host.lower(), *settings.other_hosts}
        self._all_addresses = settings.host in ("0.0.0.0", "::")
        self._public_origin = ""
        if settings.public_endpoint is not None:
            url = urlsplit(settings.public_endpoint)
            self._names.add(url.hostname or "")
            self._public_origin = _origin(url.scheme, url.netloc.rpartition("@")[2])
        self._host_of = functools.lru_cache(maxsize=64)(_host_of)
        self._is_ours = functools.lru_cache(maxsize=64)(self._find_out_if_ours)

    def guard(self, resource: object) -> None:
        """Learn which operations of a resource other sites' pages may call."""
        kinds = {method: found.cross_site for method, found in operations_of(resource).items()}
        self._open[resource] = {method: kind for method, kind in kinds.items() if kind != "never"}

    def process_request(self, req: Request, resp: falcon.Response) -> None:
        """Check where the request was sent to, whatever its path.

        Raises:
            BadRequest: the header is malformed, and links in answers would name it.
            Misdirected: the service is not known by that host.
        """
        env = req.env
        host = env.get("HTTP_HOST")  # None: HTTP/1.0, which no browser speaks
        if host is not None and (self._noauth or self._names_host):
            self._check_host(host)
        if self._noauth and OWN_HOST in env:
            self._check_host(env[OWN_HOST])

    def process_resource(self, req: Request, resp: falcon.Response, resource: object, params: dict[str, Any]) -> None:
        """Check which page sent the request.

        Raises:
            Forbidden: it is one of another site, and the operation is not open to those.
        """
        env = req.env
        if self._noauth and ("HTTP_ORIGIN" in env or "HTTP_SEC_FETCH_SITE" in env):
            self._check_page(req, self._open.get(resource, {}).get(req.method, "never"))

    def _check_host(self, host: str) -> None:
        name = self._host_of(host)
        if name is None:
            raise BadRequest("The Host header is not a host.")
        if self._noauth and not self._is_ours(name):
            raise Misdirected(
                f"{name[:80]} is not known as a host of this service. Without authentication (AUTH_MODE=noauth) it is"
                " served under loopback names, HOST, PUBLIC_ENDPOINT and the names in ALLOWED_HOSTS only."
            )

    def _find_out_if_ours(self, name: str) -> bool:
        if name in self._names or name.endswith(".localhost"):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._all_addresses or is_loopback(str(getattr(address, "ipv4_mapped", None) or address))

    def _check_page(self, req: Request, kind: CrossSite) -> None:
        if kind == "always":
            return
        env = req.env
        origin = env.get("HTTP_ORIGIN")
        if origin is not None and not self._is_own(origin, req):
            raise Forbidden(
                f"Pages of {origin[:80]!a} may not call this service: without authentication (AUTH_MODE=noauth) only"
                " its own pages may. If users reach it by that address, set PUBLIC_ENDPOINT to it."
            )
        if env.get("HTTP_SEC_FETCH_SITE", "none") in _OWN_PAGES:
            return
        # A link: the browser shows the answer by itself, and no page gets to read it.
        link = (env.get("HTTP_SEC_FETCH_MODE"), env.get("HTTP_SEC_FETCH_DEST")) == ("navigate", "document")
        if not (kind == "navigation" and link and origin is None):
            raise Forbidden(
                "Pages of other sites may not call this service: without authentication (AUTH_MODE=noauth) only its"
                " own pages may."
            )

    def _is_own(self, origin: str, req: Request) -> bool:
        own = _origin(req.scheme, req.env.get("HTTP_HOST", ""))
        return bool(origin) and origin.lower() in (own, self._public_origin)


def _host_of(host: str) -> str | None:
    """The name or address in a `Host` header, without its port, in small letters; None: it is malformed."""
    found = HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower().removesuffix(".")


def _origin(scheme: str, host: str) -> str:
    """An origin as browsers write it: in small letters, without the scheme's own port."""
    return f"{scheme}://{host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"
