"""The Gunicorn worker class of `web`: Gunicorn's gevent worker with its own connection handling (`connections.py`).

Gunicorn's gevent worker keeps a greenlet for each open connection, even an idle one, and stops accepting at
`worker_connections` connections. Clients that send nothing, or half a body, therefore block all others. This class
counts only the requests that are being served.

It serves plain HTTP/1.1; the load balancer in front terminates TLS.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import resource
import sys
import time
from typing import Any

import gevent
import gunicorn.http.errors
import gunicorn.util
from gevent.event import Event
from gunicorn.workers.ggevent import GeventWorker

from qinling_falcon.errors import RequestTimeout
from qinling_falcon.settings_environment import get_settings
from qinling_falcon.turns import let_others_run
from qinling_falcon.web.answer import Answer
from qinling_falcon.web.connections import Connection, Connections
from qinling_falcon.web.reader import Deadlines, Phase

# File descriptors that are reserved for the database, Redis and packages, beside one for each worker that can exist. If
# the process may open few files, half of its descriptors are reserved.
_OTHER_FILES = 512
# The application may answer without having read the whole body. The server reads and drops the rest:
# 1. A rest of up to `_DRAINED_BEFORE` bytes is read before the answer is sent, because many clients send their whole
#    request before they read an answer.
# 2. A longer rest is read after the answer, up to `_DRAINED_AFTER` bytes. A client that sends more is disconnected.
_DRAINED_BEFORE = 1024 * 1024
_DRAINED_AFTER = 64 * 1024 * 1024
_DRAIN_STEP = 64 * 1024
# A fixed `M_MMAP_THRESHOLD` would also keep memory low, but with it a body of 1 MB took 3.9 ms of CPU instead of 0.6.
_TRIM_EVERY_S = 5
_GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF, errno.ETIMEDOUT)


class WebWorker(GeventWorker):  # type: ignore[misc]  # Gunicorn has no types
    """Serves the requests of one web process."""

    alive: bool
    nr: int

    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self._ending = Event()

    def run(self) -> None:
        """Serve until Gunicorn stops this process, then let open requests finish for up to `graceful_timeout`."""
        if self.cfg.is_ssl:
            sys.exit("web serves plain HTTP: leave TLS to the balancer in front of it")
        settings = get_settings()
        most_connections = _most_connections(settings.max_connections, _OTHER_FILES + settings.most_workers)
        if most_connections < max(settings.max_connections, settings.web_connections):
            self.log.warning(
                "The limit of open files allows %d connections. Raise it, or set MAX_CONNECTIONS to that and"
                " WEB_CONNECTIONS below it.",
                most_connections,
            )
        self._frozen_cfg = _FrozenConfig(self.cfg)
        self._most_body_bytes = 2 * (settings.max_package_size + settings.max_body_size)
        connections = Connections(
            self._frozen_cfg,
            self._serve,
            places=self.worker_connections,
            most=most_connections,
            keep_alive_s=settings.keep_alive_s,
            deadlines=Deadlines(
                head_s=settings.head_timeout_s,
                body_grace_s=settings.body_grace_s,
                body_min_rate=settings.body_min_rate,
                send_grace_s=settings.send_timeout_s,
                send_min_rate=settings.send_min_rate,
            ),
        )
        helpers = [gevent.spawn(connections.accept_forever, listener) for listener in self.sockets]
        helpers.append(gevent.spawn(connections.expire_forever))
        for second in itertools.count(1):
            self.notify()
            if second % _TRIM_EVERY_S == 0:
                _return_memory()
            if self._ending.wait(1.0):
                break
        connections.stop()
        getattr(self.wsgi, "stop", _do_nothing)()
        for listener in self.sockets:
            listener.close()
        gevent.killall(helpers)
        stop_at = time.monotonic() + self.cfg.graceful_timeout
        while len(connections) and time.monotonic() < stop_at:
            self.notify()
            gevent.sleep(0.05)
        if len(connections):
            self.log.warning("Worker graceful timeout (pid:%s)", self.pid)
            connections.kill(1.0)

    def handle_exit(self, sig: int, frame: object) -> None:
        """Handle SIGTERM: end the wait in `run`. A signal handler must not do this itself, as it may run anywhere."""
        self.alive = False
        gevent.spawn(self._ending.set)

    def _serve(self, connection: Connection) -> bool:
        """Serve the next request, and the requests that the client has already pipelined after it.

        Returns:
            Whether the connection stays open.
        """
        request = None
        try:
            while True:
                request = None
                connection.reader.begin(Phase.HEAD)
                request = next(connection.parser)
                connection.reader.begin(Phase.BODY, request, self._most_body_bytes)
                if not self._answer(connection, request):
                    return False
                connection.parser.mesg = None  # frees the headers: an idle connection does not need them
                if not connection.reader.buffered_size():
                    return True
                let_others_run()  # while this client pipelines requests
        except (StopIteration, gunicorn.http.errors.NoMoreData, gevent.GreenletExit):
            return False
        except RequestTimeout as error:
            if request is None:
                gunicorn.util.write_error(connection.sock, error.status, "Request Timeout", error.message)
        except OSError as error:
            if error.errno not in _GONE:
                self.log.exception("Socket error processing request.")
        except Exception as error:
            self.handle_error(request, connection.sock, connection.address, error)
        return False

    def _answer(self, connection: Connection, request: Any) -> bool:
        """Run the application and send its answer.

        Returns:
            Whether the connection can serve another request.
        """
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
            self._ending.set()
        response = Answer(request, connection.writer, self._frozen_cfg)
        if not self.alive:
            response.force_close()
        if request._expected_100_continue:  # Gunicorn has no public name for it
            connection.reader.before_body = lambda: connection.writer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        environ = connection.environments.of(request, connection.sock, connection.address)
        pieces = self.wsgi(environ, response.start_response)
        connection.writer.begin()
        try:
            is_whole = self._drain(connection, request, _DRAINED_BEFORE)
            for piece in pieces:
                response.write(piece)
            response.close()
        except OSError:
            raise
        except Exception:
            if not response.headers_sent:
                raise
            # The client must see a truncated answer. It would take a second answer for the end of the first one.
            self.log.exception("Error handling request")
            connection.cut()
            return False
        finally:
            if hasattr(pieces, "close"):
                pieces.close()
        return not response.should_close() and (is_whole or self._drain(connection, request, _DRAINED_AFTER))

    def _drain(self, connection: Connection, request: Any, most: int) -> bool:
        """Read and drop the part of the body that the application left unread, if it has at most `most` bytes.

        Returns:
            Whether the whole body has been read. Only then can the connection serve another request.
        """
        body = request.body
        length = getattr(body.reader, "length", None)  # None: the body is chunked
        if connection.reader.before_body is not None:
            # The client waits for a 100 that is never sent. It may or may not send the body.
            connection.reader.before_body = None
            if length != 0:
                request.force_close()
            return True
        if length == 0:  # the usual case
            return True
        if length is None:  # a body in small chunks costs much CPU for few bytes
            most = _DRAINED_BEFORE
        elif length > most:
            return False
        connection.reader.begin(Phase.DRAIN, request, 2 * most)
        try:
            while most > 0 and not body.failed:
                data = body.read(_DRAIN_STEP)
                if not data:
                    return True
                most -= len(data)
        except OSError:
            raise
        except Exception:  # broken chunks or a slow client; the application's answer is still sent
            request.force_close()
        if body.failed:
            request.force_close()
        return False


def _do_nothing() -> None:
    """Stands for the `stop` of an application that has none."""


class _FrozenConfig:
    """Caches the values of Gunicorn's configuration, because Gunicorn looks up about twenty for each request."""

    def __init__(self, cfg: Any):
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._cfg, name)
        self.__dict__[name] = value
        return value


def _return_memory() -> None:
    """Make glibc return freed memory to the system. This takes 0.3 ms, or 16 ms to return 200 MiB.

    By default glibc keeps freed memory that lies between blocks in use. After many slow readers that is most of the
    freed memory.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _most_connections(wanted: int, reserved: int) -> int:
    """Raise the limit on open files as far as needed, and return how many connections it allows, up to `wanted`.

    Args:
        wanted: the connections of clients.
        reserved: the descriptors for everything else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > soft:
        target = wanted + reserved if hard == resource.RLIM_INFINITY else min(hard, wanted + reserved)
        if target > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
            soft = target
    return min(wanted, max(soft - reserved, soft // 2))
