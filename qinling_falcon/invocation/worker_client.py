"""An HTTP client for runtime workers, with one kept-alive connection for each worker that this process calls.

A general HTTP client uses more CPU than the rest of a warm call. The server is
always our own worker (`runtimes/`), so this client supports only what that worker
sends: HTTP/1.1 answers with a Content-Length and a JSON body.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import orjson

from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings

_LONGEST_IDLE_S = 60.0
_GRACE_S = 2.0
_SWEEP_AT = 512
_BUFFER = 65536
_LARGEST_HEAD = 16 * 1024
# In JSON, each byte of a result or log takes at most six, as \u0001 does. The rest of an answer is bounded.
_BYTES_IN_JSON = 6
_LARGEST_REST = 256 * 1024
_CANCEL_TIMEOUT_S = 5.0
# The members of an answer to `/execute` that are needed.
_ANSWERED = {"status", "result", "log", "duration_s"}
# The statuses of `/load` for a faulty package or entry. Every other worker would answer the same.
_BAD_LOADS = frozenset({400, 413, 422, 431})
# The status of `/load` when the worker's disk can't take the package. Other workers share the disk.
_DISK_FULL = 507


class NotSent(Exception):
    """The worker could not be reached, or refused; the function has not run, so another worker may be tried."""


class NotLoaded(Exception):
    """The package can't be loaded by any worker. The message gives the reason as a sentence.

    Args:
        message: the reason.
        is_reusable: whether the worker is a warm worker again.
    """

    def __init__(self, message: str, *, is_reusable: bool):
        super().__init__(message)
        self.is_reusable = is_reusable


class DiskFull(Exception):
    """The workers' disk can't take the package; the worker is a warm worker again. The message is a sentence."""


class WorkerLost(Exception):
    """The connection broke, or no answer came in time, after the request was sent: the function may have run."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker answered: HTTP status and the members of its JSON body."""

    status: int
    body: dict[str, Any]


class WorkerClient:
    """Calls workers. Safe for many greenlets; each worker serves one call at a time, so it needs one connection.

    Args:
        settings: the limits of results and logs. A larger answer is not read.
    """

    def __init__(self, settings: Settings) -> None:
        self._idle: dict[str, tuple[socket.socket, float]] = {}
        self._largest = _BYTES_IN_JSON * (settings.max_result_size + settings.max_log_size) + _LARGEST_REST

    def knows(self, worker: LeasedWorker) -> bool:
        """Whether there is a connection to this worker."""
        return worker.worker_id in self._idle

    def load(self, worker: LeasedWorker, package: bytes, about: dict[str, Any], timeout_s: float) -> None:
        """Send a worker the package of its target. If this raises, the function has not run.

        Args:
            worker: the worker.
            package: the zip archive.
            about: the metadata of the target.
            timeout_s: the time limit for unpacking, in seconds. The client waits a little longer for the answer.

        Raises:
            NotLoaded: the package can't be loaded.
            DiskFull: the workers' disk can't take it.
            NotSent: the worker could not be reached, ended, or refused; another worker may be tried.
        """
        head = f"X-Load: {json.dumps(about)}\r\n"
        try:
            answer = self._call(worker, "/load", head, package, timeout_s + _GRACE_S)
        except WorkerLost as error:
            if isinstance(error.__cause__, TimeoutError):
                raise NotLoaded(f"The package was not loaded within {timeout_s:g} s.", is_reusable=False) from error
            raise NotSent(f"the worker was lost while it loaded: {error}") from error
        if answer.status in _BAD_LOADS:
            raise NotLoaded(str(answer.body.get("error")), is_reusable=True)
        if answer.status == _DISK_FULL:
            raise DiskFull(str(answer.body.get("error")))
        if answer.status != 200:
            raise NotSent(f"the worker did not load the package: {answer.body.get('error')}")

    def execute(self, worker: LeasedWorker, execution: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Run one execution on a leased worker and return what it answered.

        Raises:
            NotSent: it has not run.
            WorkerLost: it may have run.
        """
        answer = self._call(worker, "/execute", "", orjson.dumps(execution), timeout_s)
        if answer.status != 200:
            raise NotSent(f"the worker refused: {answer.body.get('error')}")
        if not answer.body.keys() >= _ANSWERED:
            raise WorkerLost("the worker's answer lacks a member")
        return answer.body

    def cancel(self, worker: LeasedWorker, execution_id: str) -> bool:
        """End an execution that runs on a worker. Its `execute`, which goes on, then returns status `cancelled`.

        Returns:
            Whether the execution was running; False: it has ended, or has not begun.

        Raises:
            NotSent, WorkerLost: the worker could not be asked, or did not answer.
        """
        # Not the kept connection, on which the execution's answer is awaited.
        connection = _connected(worker)
        try:
            body = orjson.dumps({"execution_id": execution_id})
            answer = self._exchange(connection, worker, "/cancel", "", body, _CANCEL_TIMEOUT_S)
        finally:
            connection.close()
        if answer.status not in (202, 404):
            raise NotSent(f"the worker refused to cancel: {answer.body.get('error')}")
        return answer.status == 202

    def _call(self, worker: LeasedWorker, path: str, head: str, body: bytes, timeout_s: float) -> Answer:
        """Send a request on the worker's kept connection."""
        connection = self._connect(worker)
        try:
            answer = self._exchange(connection, worker, path, head, body, timeout_s)
        except BaseException:  # also of a greenlet that is killed: the answer is left unread on this connection
            connection.close()
            raise
        if len(self._idle) >= _SWEEP_AT:
            self._sweep()
        self._idle[worker.worker_id] = (connection, time.monotonic())
        return answer

    def _exchange(
        self, connection: socket.socket, worker: LeasedWorker, path: str, head: str, body: bytes, timeout_s: float
    ) -> Answer:
        request = (
            f"POST {path} HTTP/1.1\r\nHost: worker\r\nX-Worker-Secret: {worker.secret}\r\n{head}"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode("ascii")
        try:
            connection.settimeout(timeout_s)
            packet = request + body
            # gevent's `sendall` makes an extra system call each time, to ask for the size of the socket's buffer.
            sent = connection.send(packet)
            if sent < len(packet):
                connection.sendall(packet[sent:])
            return _read_answer(connection, self._largest)
        except (OSError, ValueError) as error:
            raise WorkerLost(str(error) or type(error).__name__) from error

    def _connect(self, worker: LeasedWorker) -> socket.socket:
        kept = self._idle.pop(worker.worker_id, None)
        if kept is not None:
            if _is_quiet(kept[0]):
                return kept[0]
            kept[0].close()
        return _connected(worker)

    def _sweep(self) -> None:
        """Close connections to workers that were not called for long; most of those workers are gone."""
        oldest = time.monotonic() - _LONGEST_IDLE_S
        for worker_id, (connection, used) in list(self._idle.items()):
            if used < oldest or not _is_quiet(connection):
                connection.close()
                del self._idle[worker_id]


def _connected(worker: LeasedWorker) -> socket.socket:
    host, _, port = worker.address.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), timeout=2.0)
    except OSError as error:
        raise NotSent(f"no connection to the worker: {error}") from error
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _is_quiet(connection: socket.socket) -> bool:
    """Whether nothing has come on an idle connection; an end of file there means that the worker has ended."""
    connection.settimeout(0)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read_answer(connection: socket.socket, largest: int) -> Answer:
    data = connection.recv(_BUFFER)
    end = data.find(b"\r\n\r\n")
    while end < 0:
        if len(data) > _LARGEST_HEAD:
            raise ValueError("the head of the worker's answer is too large")
        more = connection.recv(_BUFFER)
        if not more:
            raise ConnectionError("the worker closed the connection")
        data += more
        end = data.find(b"\r\n\r\n")
    status = int(data[9:12])
    head = data[:end].lower()
    at = head.index(b"content-length:") + 15
    stop = head.find(b"\r\n", at)
    length = int(head[at : stop if stop > 0 else None])
    if not 0 <= length <= largest:
        raise ValueError(f"the worker's answer has {length} bytes, and at most {largest} are possible")
    parts = [data[end + 4 :]]
    missing = length - len(parts[0])
    while missing > 0:
        more = connection.recv(min(missing, _BUFFER))
        if not more:
            raise ConnectionError("the worker closed the connection")
        parts.append(more)
        missing -= len(more)
    body = _parsed(b"".join(parts)) if length else {}
    if not isinstance(body, dict):
        raise ValueError("the worker's answer is no JSON object")  # noqa: TRY004  # as all other malformed ones
    return Answer(status, body)


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # orjson refuses lone surrogates, which a function may print or raise
        return json.loads(body)
