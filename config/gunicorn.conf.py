from gevent import monkey; monkey.patch_all()  # noqa: E702, I001 - before anything else is imported, in master and workers

"""Gunicorn's configuration: `gunicorn -c config/gunicorn.conf.py --no-control-socket app:application`."""

import gc
import logging
import math
import re
import signal
import socket
import sys
from pathlib import Path

import gunicorn.util

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import qinling_falcon.api  # the web processes are forked from this one, and need not import it each
from qinling_falcon.auth.policy import Policy
from qinling_falcon.errors import Unavailable
from qinling_falcon.models import secrets_at_rest
from qinling_falcon.observability.logs import EventFormatter
from qinling_falcon.resources.answers import JSON, encode, error_body
from qinling_falcon.resources.request import new_request_id
from qinling_falcon.settings import SettingsError
from qinling_falcon.settings_environment import get_settings
from workers.run import linux

try:
    _settings = get_settings()
    # A fault of the policy is reported here once, in one line, and not by each worker that it stops. This also imports
    # the plugins of the policy's library, so that the web processes need not import them each.
    Policy(_settings.policy_file)
    try:
        secrets_at_rest.check_at_start(_settings)
    except Unavailable:
        pass  # the web processes start without the database, too; the release step has made this check
except SettingsError as error:
    sys.exit(str(error))

_host = f"[{_settings.host}]" if ":" in _settings.host else _settings.host
bind = f"{_host}:{_settings.port}"
workers = _settings.web_concurrency
worker_class = "qinling_falcon.web.worker.WebWorker"
worker_connections = _settings.web_connections

# A stop closes the port at once, then waits for the calls that run, but not for idle connections.
graceful_timeout = math.ceil(_settings.shutdown_grace_s)
keepalive = math.ceil(_settings.keep_alive_s)

limit_request_line = 8190
# Gunicorn interprets no forwarded headers, so it need not check each peer's address. The application does that
# (TRUSTED_PROXIES).
forwarded_allow_ips = "*"
secure_scheme_headers = {}
forwarder_headers = ""
accesslog = None
loglevel = _settings.log_level
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"event": {"()": EventFormatter, "process": "web"}},
    "handlers": {"events": {"class": "logging.StreamHandler", "formatter": "event", "stream": "ext://sys.stderr"}},
    "root": {"level": _settings.log_level.upper(), "handlers": ["events"]},
    "loggers": {
        "gunicorn.error": {"level": _settings.log_level.upper(), "handlers": ["events"], "propagate": False},
        "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": False},
    },
}


class _Kinds(logging.Filter):
    """Of requests that are none, the kind of fault is logged: in its words there may be parts of a token."""

    def filter(self, record):
        record.msg = re.sub(r"^(Invalid request from ip=\S+: [A-Za-z ]*).*", r"\1", str(record.msg), flags=re.DOTALL)
        return True


logging.getLogger("gunicorn.error").addFilter(_Kinds())


def _write_error(connection, status, reason, message):
    """Answer in the API's error format when Gunicorn itself refuses a request, for example for too many headers."""
    request_id = new_request_id()
    logging.getLogger("gunicorn.error").info("no request", extra={"request_id": request_id, "status": status})
    kind = re.match(r"[A-Za-z ]*", message)[0].strip()
    body = encode(error_body(status, f"{reason}: {kind}." if kind else f"{reason}.", request_id))
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: {JSON}\r\n"
        f"X-Request-Id: {request_id}\r\nX-Content-Type-Options: nosniff\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    gunicorn.util.write_nonblock(connection, head.encode("latin-1") + body)


gunicorn.util.write_error = _write_error
gc.freeze()  # the web processes share what was imported here; a garbage collection would copy its pages for each


def when_ready(server):
    """Have the kernel end connections whose clients read nothing: their answers hold memory, and files."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        for listener in server.LISTENERS:
            listener.sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(_settings.send_timeout_s * 1000)
            )


def post_worker_init(worker):
    """Keep the garbage collector away from what lives as long as the process: a full collection takes 0.1 s for it.

    The objects of some dozens of running calls are more than the usual threshold of 700, so it would run in each call.
    """
    gc.freeze()
    gc.set_threshold(5000, 10, 10)


def worker_exit(server, worker):
    """Let the application give back what the process holds."""
    application = getattr(worker, "wsgi", None)
    if isinstance(application, qinling_falcon.api.Api):  # not in the master, and not if it could not be loaded
        application.close()


def post_fork(server, worker):
    """End with the master: a worker that outlived it would hold the port that the next one needs."""
    linux.end_with_parent(signal.SIGKILL)
