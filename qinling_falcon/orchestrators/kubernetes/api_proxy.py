"""Reaches workers through the API server: `KUBERNETES_WORKER_ACCESS=api-proxy`.

A request to `/api/v1/namespaces/NAMESPACE/pods/NAME:PORT/proxy/PATH` is authenticated and authorized (the resource
`pods/proxy`; the verbs `create` for POST and `get` for GET) and passed on to the pod. The API server keeps the worker's
headers and its Content-Length, has no time limit for such requests, and does not send a POST twice.
"""

from __future__ import annotations

import logging
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit

import orjson
from kubernetes.client.configuration import Configuration
from kubernetes.client.rest import should_bypass_proxies

from qinling_falcon.orchestrators.addresses import pod_of, prepare_tcp
from qinling_falcon.orchestrators.gateways import NO_DESCRIPTOR, GatewayAway, NotPassedOn
from qinling_falcon.orchestrators.kubernetes.access import make_configuration
from qinling_falcon.orchestrators.kubernetes.names import WORKER_PORT
from qinling_falcon.orchestrators.worker_http import Answer
from qinling_falcon.settings import Settings, SettingsError

logger = logging.getLogger(__name__)

# The token is asked for again so often. Tokens that are in files are replaced some minutes before they expire.
_TOKEN_S = 10.0
_RETRY_AFTER_S = 5
# So begins the API server's message (status 500 or 503) if it could not connect to the pod, directly or through the
# proxy of the cluster's network. Any other error may have come after the pod had got the request.
_NO_CONNECTION = (
    "error trying to reach service: dial ",
    "error trying to reach service: proxy error from ",
)


class ApiProxy:
    """The API server as a gateway to workers (`orchestrators.gateways.Gateway`).

    Args:
        settings: how to reach the API server.

    Raises:
        SettingsError: the configuration can't be used.
    """

    def __init__(self, settings: Settings):
        self._configuration = configuration = make_configuration(settings)
        url = urlsplit(configuration.host)
        if not url.hostname or url.scheme not in ("http", "https"):
            raise SettingsError(f"the API server's URL is {configuration.host}: expected http:// or https://")
        if configuration.proxy and not should_bypass_proxies(configuration.host, configuration.no_proxy or ""):
            raise SettingsError(
                f"KUBERNETES_WORKER_ACCESS=api-proxy can't use the HTTP proxy {configuration.proxy}: expected"
                f" {url.hostname} in NO_PROXY"
            )
        self._host, self._port = url.hostname, url.port or (443 if url.scheme == "https" else 80)
        self._prefix = f"{url.path.rstrip('/')}/api/v1/namespaces/"
        self._rest_of_line = f" HTTP/1.1\r\nHost: {url.netloc.rpartition('@')[2]}\r\n"
        self._server_name = configuration.tls_server_name or url.hostname
        self._tls = _make_context(configuration) if url.scheme == "https" else None
        self._authorization = ""
        self._ask_again_at = 0.0

    def connect(self, timeout_s: float) -> socket.socket:
        """Connect to the API server.

        Raises:
            GatewayAway: there is no connection.
            OSError: with `NO_DESCRIPTOR`, this process can't open a further socket.
        """
        try:
            connection = socket.create_connection((self._host, self._port), timeout_s)
            try:
                prepare_tcp(connection)
                if self._tls is None:
                    return connection
                return self._tls.wrap_socket(connection, server_hostname=self._server_name)
            except BaseException:
                connection.close()
                raise
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                raise
            raise _away(f"no connection: {error}") from error

    def begin(self, address: str, method: str, path: str) -> str:
        """The begin of a request's head.

        Raises:
            NotPassedOn: the address is not that of a pod behind the API server.
            GatewayAway: this process has no token.
        """
        pod = pod_of(address)
        if pod is None:
            raise NotPassedOn(f"the worker has the address {address}, which is not one for the API server")
        now = time.monotonic()
        if now >= self._ask_again_at:
            self._ask_again_at = now + _TOKEN_S  # first, because other greenlets may run while this one waits
            self._ask_for_token()
        namespace, name = pod
        target = f"{self._prefix}{namespace}/pods/{name}:{WORKER_PORT}/proxy{path}"
        return f"{method} {target}{self._rest_of_line}{self._authorization}"

    def check(self, answer: Answer) -> None:
        """Check that an answer is the worker's. A refusal of a worker is a JSON object with `error`, and no `kind`.

        Raises:
            NotPassedOn: the worker did not get the request.
            GatewayAway: the API server, or something before it, refused the request, as with status 401, 403 or 429.
            OSError: the worker may have got the request, and there is no answer.
        """
        if answer.status < 300:
            return
        told = _parse(answer.body)
        if "error" in told and "kind" not in told:
            return
        is_status = told.get("kind") == "Status"
        message = str(told.get("message", "")) if is_status else answer.body[:200].decode("utf-8", "replace")
        reason = f"the API server answered with status {answer.status}: {message}"
        if answer.status >= 500:
            if message.startswith(_NO_CONNECTION):
                raise NotPassedOn(reason)
            raise OSError(reason)
        # 404: there is no such pod. 400: it has no IP address.
        if is_status and answer.status in (400, 404):
            raise NotPassedOn(reason)
        if answer.status == 401:
            self._ask_again_at = 0.0
        raise _away(reason)

    def _ask_for_token(self) -> None:
        try:
            token = self._configuration.get_api_key_with_prefix("BearerToken")
        except Exception as error:  # of a program that the kubeconfig names, too
            self._ask_again_at = 0.0
            raise _away(f"there is no token: {error}") from error
        self._authorization = f"Authorization: {token}\r\n" if token else ""


def _away(reason: str) -> GatewayAway:
    """Log the reason, and make an error without it, because callers of the service may read the error."""
    logger.warning("the API server passes no requests on to workers", extra={"reason": reason})
    return GatewayAway(
        "The workers can't be reached now: the API server of their cluster is away, or refuses requests.",
        retry_after_s=_RETRY_AFTER_S,
    )


def _make_context(configuration: Configuration) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert, cadata=configuration.ca_cert_data)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the certificates for the API server can't be used: {error}") from error
    return context


def _parse(body: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(body)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
