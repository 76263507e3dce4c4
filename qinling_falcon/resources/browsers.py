"""Protects a service without authentication from web pages of other sites.

With `AUTH_MODE=noauth` every client is the admin, and any page in a browser on the same machine or network can reach
the service. A page has two ways, and `BrowserGuard` refuses both:

1. DNS rebinding. The attacker makes the host name of the page resolve to this service, so the browser takes the service
   for the page's own server. The request has the page's host name in `Host`. An IP address in `Host` is safe, because
   only a page served from that address has that origin. If the service listens on all addresses, every IP address is
   accepted.
2. Cross-origin requests. A page may send forms and POSTs without a body to any server. Browsers name the page's origin
   in `Origin`, and its relation to the service in `Sec-Fetch-Site`. Another port of the same host is another origin.

With `AUTH_MODE=keystone` neither way works. A page has no token, and a request with the token's header needs the
permission of the service first (CORS), which the service never gives.
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
    """Middleware that refuses requests from pages of other sites and requests for unknown hosts."""

    def __init__(self, settings: Settings):
        self._noauth = settings.auth_mode == "noauth"
        self._names_host = settings.public_endpoint is None
        self._cross_site: dict[object, tuple[dict[str, CrossSite], CrossSite]] = {}
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
        """Register which operations of a resource are open to pages of other sites."""
        kinds = {method: found.cross_site for method, found in operations_of(resource).items()}
        other = getattr(resource, "on_other", None)  # see `any_method`
        self._cross_site[resource] = (kinds, "never" if other is None else other.operation.cross_site)

    def process_request(self, req: Request, resp: falcon.Response) -> None:
        """Check the host of every request, whatever its path.

        Raises:
            BadRequest: the Host header is malformed, and links in answers would contain it.
            Misdirected: the host is not one of this service's hosts.
        """
        env = req.env
        host = env.get("HTTP_HOST")  # None: HTTP/1.0, which browsers do not use
        if host is not None and (self._noauth or self._names_host):
            self._check_host(host)
        if self._noauth and OWN_HOST in env:
            self._check_host(env[OWN_HOST])

    def process_resource(self, req: Request, resp: falcon.Response, resource: object, params: dict[str, Any]) -> None:
        """Check which page sent the request.

        Raises:
            Forbidden: a page of another site sent it, and the operation is not open to such pages.
        """
        env = req.env
        if self._noauth and ("HTTP_ORIGIN" in env or "HTTP_SEC_FETCH_SITE" in env):
            kinds, for_unknown_methods = self._cross_site.get(resource, ({}, "never"))
            self._check_page(req, kinds.get(req.method, for_unknown_methods))

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
        # The user followed a link: the browser shows the answer in its own tab, so the linking page can't read it.
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
    """The host name or address in a `Host` header, without the port, in lower case; None if the header is malformed."""
    found = HOST.fullmatch(host)
    return None if found is None else found[1].strip("[]").lower().removesuffix(".")


def _origin(scheme: str, host: str) -> str:
    """An origin as browsers write it: in lower case, without the scheme's default port."""
    return f"{scheme}://{host.lower().removesuffix(_DEFAULT_PORTS.get(scheme, ' '))}"
