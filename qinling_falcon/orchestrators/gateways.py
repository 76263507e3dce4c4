"""Reaching workers through a gateway: a server that passes requests on to workers that can't be reached directly.

Most workers are connected to directly (see `addresses`). With a gateway, the connection goes to the gateway, and each
request names the worker. Answers may also come from the gateway itself: they must not count as the worker's.
"""

from __future__ import annotations

import errno
import socket
from typing import Protocol

from qinling_falcon.orchestrators.base import OrchestratorAway
from qinling_falcon.orchestrators.worker_http import Answer
from qinling_falcon.settings import Settings

NO_DESCRIPTOR = (errno.EMFILE, errno.ENFILE)
"""The numbers of errors that say that this process, or the whole host, can't open a further file or socket."""


class GatewayAway(OrchestratorAway):
    """The gateway can't be reached, or refuses this process. No worker got the request."""


class NotPassedOn(Exception):
    """The gateway knows no such worker, or can't reach it. The worker did not get the request."""


class Gateway(Protocol):
    """Passes requests on to workers."""

    def connect(self, timeout_s: float) -> socket.socket:
        """Connect to the gateway. A connection may be kept for further requests.

        Args:
            timeout_s: seconds to wait, and the timeout of the connection afterwards.

        Raises:
            GatewayAway: there is no connection.
            OSError: with `NO_DESCRIPTOR`, this process can't open a further socket.
        """

    def begin(self, address: str, method: str, path: str) -> str:
        """The first lines of a request: the request line, `Host`, and the header lines that the gateway wants.

        Args:
            address: of the worker.
            method: the HTTP method.
            path: of the worker's endpoint.

        Raises:
            NotPassedOn: the gateway can't know a worker with such an address.
            GatewayAway: this process has no credentials for the gateway now.
        """

    def check(self, answer: Answer) -> None:
        """Check that an answer is the worker's.

        Raises:
            NotPassedOn: the worker did not get the request.
            GatewayAway: the worker did not get the request, and no worker can be reached now.
            OSError: the worker may have got the request, and there is no answer.
        """


def make_gateway(settings: Settings) -> Gateway | None:
    """Make the gateway that the settings name; None: workers are connected to directly.

    Raises:
        SettingsError: a setting of the gateway can't be used.
    """
    if settings.orchestrator == "kubernetes" and settings.kubernetes_worker_access == "api-proxy":
        # Its client takes a quarter of a second and 40 MB, which other installations need not have.
        from qinling_falcon.orchestrators.kubernetes.api_proxy import ApiProxy

        return ApiProxy(settings)
    return None
