"""Sends one request to a URL that a user has chosen, and reads the status of the answer.

The sender limits what a hostile URL or receiver can do:

1. It resolves the name once (see `lookups`), checks every address (see `addresses`), and connects to an address that it
   has checked. So a name that resolves to another address a moment later changes nothing (DNS rebinding).
2. It follows no redirect and uses no proxy.
3. It ends the whole delivery at one deadline, also if the receiver sends a byte now and then.
4. It reads at most 16 KiB of the answer.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import gevent
from gevent import socket
from gevent import ssl as gevent_ssl

from qinling_falcon.settings import Settings
from qinling_falcon.webhooks.addresses import may_reach
from qinling_falcon.webhooks.lookups import Lookups
from qinling_falcon.webhooks.urls import ParsedUrl, parse_url

# Returns the IP addresses of the host name that a project has chosen. Raises OSError if the name has no address.
Resolve = Callable[[str, int, str], Sequence[str]]

_MOST_READ = 16 * 1024
_CONNECT_TIMEOUT_S = 5.0
# Time for the rest of the answer, so that a receiver can write it to its end.
_REST_TIMEOUT_S = 0.5
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])[ \r\n]")
_GONE = 410


class NotDelivered(Exception):
    """A request was not delivered; the message says why.

    Attributes:
        is_final: whether another attempt is useless.
    """

    def __init__(self, reason: str, *, is_final: bool = False):
        super().__init__(reason)
        self.is_final = is_final


class Sender:
    """Sends requests. One sender serves many greenlets.

    Args:
        settings: the timeout and the networks that may be reached.
        resolve: resolves host names; None: see `Lookups`.
        make_context: makes the TLS context; by default one that trusts the authorities of the system (`SSL_CERT_FILE`
            and `SSL_CERT_DIR` name others).
    """

    def __init__(
        self,
        settings: Settings,
        resolve: Resolve | None = None,
        make_context: Callable[[], ssl.SSLContext] = gevent_ssl.create_default_context,
    ):
        self._timeout_s = settings.callback_timeout_s
        self._networks = settings.allowed_callback_networks
        self._resolve = resolve or Lookups().resolve
        self._make_context = make_context

    def post(self, url: str, headers: Mapping[str, str], body: bytes, project_id: str = "") -> int:
        """Send a POST request and return the status of the answer, which is from 200 to 299.

        Args:
            url: a URL that `parse_url` accepts.
            headers: further headers.
            body: JSON.
            project_id: the project that has chosen the URL.

        Raises:
            NotDelivered: the receiver can't or must not be reached, does not answer in time, or answers another status.
        """
        deadline = gevent.Timeout.start_new(self._timeout_s)
        try:
            status = self._post(parse_url(url), project_id, headers, body, deadline)
        except gevent.Timeout as timeout:
            if timeout is not deadline:
                raise
            raise NotDelivered(f"The receiver did not answer within {self._timeout_s:g} s.") from None
        except (OSError, UnicodeError) as error:  # TLS raises OSErrors, and names that IDNA refuses UnicodeErrors
            raise NotDelivered(f"The receiver can't be reached: {error}.") from error
        except ValueError as error:
            raise NotDelivered(f"The URL {error}", is_final=True) from error
        finally:
            deadline.close()
        if 200 <= status < 300:
            return status
        what = "a redirect, which is not followed" if 300 <= status < 400 else "an error"
        raise NotDelivered(f"The receiver answered with the status {status}: {what}.", is_final=status == _GONE)

    def _post(
        self, url: ParsedUrl, project_id: str, headers: Mapping[str, str], body: bytes, deadline: gevent.Timeout
    ) -> int:
        lines = [f"POST {url.target} HTTP/1.1", f"Host: {url.authority}", "Connection: close"]
        lines += ["User-Agent: Qinling-Falcon", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        connection = self._connect(url, project_id)
        try:
            connection.sendall(head + body)
            return _read_status(connection, deadline)
        finally:
            connection.close()

    def _connect(self, url: ParsedUrl, project_id: str) -> socket.socket:
        """Connect to the first address of the host that can be reached."""
        addresses = self._resolve(url.host, url.port, project_id)
        refused = [address for address in addresses if not may_reach(address, self._networks)]
        if refused:
            raise NotDelivered(
                f"The address {refused[0]} of the receiver is not public, and CALLBACK_NETWORKS does not allow it."
            )
        failure = OSError("its name has no address")
        for address in addresses:
            try:
                connection = socket.create_connection((address, url.port), timeout=_CONNECT_TIMEOUT_S)
            except OSError as error:
                failure = error
            else:
                return self._secured(connection, url)
        raise failure

    def _secured(self, connection: socket.socket, url: ParsedUrl) -> socket.socket:
        connection.settimeout(None)  # the deadline of the delivery applies
        if not url.is_secure:
            return connection
        try:
            return self._context.wrap_socket(connection, server_hostname=url.host.removesuffix("."))
        except BaseException:
            connection.close()
            raise

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return self._make_context()


def _read_status(connection: socket.socket, deadline: gevent.Timeout) -> int:
    """Read the answer up to its status, and then some of the rest."""
    received = b""
    left = _MOST_READ
    while True:
        chunk = connection.recv(left)
        left -= len(chunk)
        received += chunk
        # Answers with a status below 200 come before the final one.
        while received.startswith(b"HTTP/1.1 1") and b"\r\n\r\n" in received:
            received = received.partition(b"\r\n\r\n")[2]
        line = _STATUS_LINE.match(received)
        if line is not None and not line[1].startswith(b"1"):
            _read_rest(connection, left, deadline)
            return int(line[1])
        if not chunk or left == 0 or (line is None and b"\n" in received):
            raise NotDelivered("The receiver's answer is not HTTP/1.1, or ends within its headers.")


def _read_rest(connection: socket.socket, most: int, deadline: gevent.Timeout) -> None:
    """Read at most `most` bytes of the rest, so that a receiver can write a short answer to its end."""
    rest = gevent.Timeout.start_new(_REST_TIMEOUT_S)
    try:
        while most > 0 and (chunk := connection.recv(most)):
            most -= len(chunk)
    except gevent.Timeout as timeout:
        if timeout not in (rest, deadline):  # the status is known, so the request is delivered all the same
            raise
    except OSError:
        pass
    finally:
        rest.close()
