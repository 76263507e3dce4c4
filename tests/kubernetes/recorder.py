"""A proxy before the API server that notes which rights the requests of a service need."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import ssl
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kubernetes import client, config

from tests.kubernetes.access import Right

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NOT_FORWARDED = {"connection", "host", "transfer-encoding"}


def rights_of(method: str, target: str, media_type: str = "") -> set[Right]:
    """The rights that a request in a namespace needs.

    Args:
        method: of the request.
        target: its path and query.
        media_type: of its body.
    """
    parts = urllib.parse.urlsplit(target)
    resource, _, name_and_more = parts.path.partition("/namespaces/")[2].partition("/")[2].partition("/")
    name, _, subresource = name_and_more.partition("/")
    if subresource:
        resource += "/" + subresource.partition("/")[0]
    if method == "GET":
        watches = urllib.parse.parse_qs(parts.query).get("watch") == ["true"]
        return {("get" if name else "watch" if watches else "list", resource)}
    verb = _VERBS[method]
    if verb == "delete" and not name:
        verb = "deletecollection"
    rights = {(verb, resource)}
    if "apply-patch" in media_type:  # makes the object if there is none
        rights.add(("create", resource))
    return rights


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _forward(self) -> None:
        seen = rights_of(self.command, self.path, self.headers.get("Content-Type", ""))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPSConnection(self.server.upstream, context=self.server.tls, timeout=90)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _NOT_FORWARDED}
        with contextlib.closing(upstream), contextlib.suppress(OSError):
            upstream.request(self.command, self.path, body or None, headers)
            answer = upstream.getresponse()
            with self.server.lock:
                self.server.rights |= seen
                if answer.status == 403:
                    self.server.refused.append(f"{self.command} {self.path}")
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in _NOT_FORWARDED:
                    self.send_header(name, value)
            # In chunks, as the API server does: the client reads a watch chunk by chunk.
            is_chunked = answer.getheader("Content-Length") is None
            if is_chunked:
                self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Connection", "close")
            self.end_headers()
            while piece := answer.read1(65536):
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            if is_chunked:
                self.wfile.write(b"0\r\n\r\n")

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _forward

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str, tls: ssl.SSLContext):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.tls = tls
        self.lock = threading.Lock()
        self.rights: set[Right] = set()
        self.refused: list[str] = []


@contextlib.contextmanager
def recording(kubeconfig: Path, copy: Path) -> Iterator[_Server]:
    """Run a proxy before the API server of a kubeconfig file.

    Args:
        kubeconfig: the file.
        copy: a file to write, with the proxy in place of the API server.
    """
    settings = client.Configuration()
    config.load_kube_config(str(kubeconfig), client_configuration=settings)
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    server = _Server(urllib.parse.urlsplit(settings.host).netloc, tls)
    text = json.loads(kubeconfig.read_text())
    text["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{server.server_port}"}
    copy.write_text(json.dumps(text))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
