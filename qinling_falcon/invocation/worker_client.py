"""An HTTP client for runtime workers, with one kept-alive connection for each worker that this process calls.

A general HTTP client uses more CPU than the rest of a warm call. The server is
always our own worker (`runtimes/`), so this client supports only what that worker
sends: HTTP/1.1 answers with a Content-Length. The body is JSON; the answer to
`/execute` is a line of JSON, then the output and the log.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import time
from typing import Any, NamedTuple

import orjson

from qinling_falcon.deadlines import Deadlines
from qinling_falcon.errors import Unavailable
from qinling_falcon.models.cooperation import native
from qinling_falcon.orchestrators.addresses import connect
from qinling_falcon.orchestrators.gateways import NO_DESCRIPTOR, Gateway, GatewayAway, NotPassedOn, make_gateway
from qinling_falcon.orchestrators.worker_http import Answer, read_answer
from qinling_falcon.pool.leases import LeasedWorker
from qinling_falcon.settings import Settings

_LONGEST_IDLE_S = 60.0
_GRACE_S = 2.0
# Each byte of a log that is not valid UTF-8 becomes a replacement character of three bytes. `_LARGEST_REST` bounds the
# first line of the answer.
_BYTES_IN_LOG = 3
_LARGEST_REST = 256 * 1024
_CONNECT_TIMEOUT_S = 2.0
_CANCEL_TIMEOUT_S = 5.0
# Required members of the first line of an answer to `/execute`.
_ANSWERED = {"status", "duration_s", "output_size"}
# The statuses of `/load` for a faulty package or entry. Every other worker would answer the same.
_BAD_LOADS = frozenset({400, 413, 422, 431})
# The status of `/load` when the worker's disk can't take the package. Other workers share the disk.
_DISK_FULL = 507
_make_poll: type[select.poll] = native("select", "poll")  # gevent's would run other greenlets
_NO_DESCRIPTOR_LEFT = (
    "No file descriptor is left for a connection to a worker. The function has not run. Raise the limit on open files,"
    " or lower MAX_CONNECTIONS."
)


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


class NoDescriptor(Unavailable):
    """This process has no file descriptor left for a connection to the worker, which is healthy and got no request."""


UNREACHED = (NoDescriptor, GatewayAway)
"""The errors of this process alone: the worker is healthy and did not get the request."""


class WorkerLost(Exception):
    """The connection broke, or no answer came in time, after the request was sent: the function may have run."""


class Execution(NamedTuple):
    """What a worker needs to run an execution.

    Attributes:
        id: the execution's id.
        timeout_s: the function's time limit.
        metadata: `context` for the function, and with a trust `openstack`, which is a secret.
        input: the function's input; None: it is called without one.
    """

    id: str
    timeout_s: float
    metadata: dict[str, Any]
    input: str | None


class Ran(NamedTuple):
    """The outcome of an execution.

    Attributes:
        status: `success`, `failed` or `cancelled`.
        message: for a failure, what happened.
        result: the result of the execution record: JSON text with duration and output.
        log: what the function printed.
        duration_s: how long the function ran.
        busy_s: how long the worker had the request; None: not told.
        reason: for a failure, its kind as the worker names it, such as `exception`, `timeout` or `result`.
    """

    status: str
    message: str | None
    result: str
    log: str
    duration_s: float
    busy_s: float | None = None
    reason: str | None = None


class WorkerClient:
    """Calls workers. Safe for many greenlets; each worker serves one call at a time, so it needs one connection.

    Kept connections and those of running requests are together at most as many as there can be workers. At this limit,
    the longest idle one is closed for a new one. Otherwise connections to workers that have ended would stay open until
    they count as unused.

    Args:
        settings: the limits of results and logs (a larger answer is not read), and the most workers.
    """

    def __init__(self, settings: Settings) -> None:
        self._gateway = make_gateway(settings)
        self._idle: dict[str, tuple[socket.socket, float]] = {}  # the longest idle one first
        self._deadlines: Deadlines[socket.socket] = Deadlines(_shut_down)
        self._in_use = 0
        self._most = settings.most_workers
        self._largest = settings.max_result_size + _BYTES_IN_LOG * settings.max_log_size + _LARGEST_REST

    def knows(self, worker: LeasedWorker) -> bool:
        """Whether there is a connection to this worker."""
        return worker.worker_id in self._idle

    def load(self, worker: LeasedWorker, package: bytes, metadata: dict[str, Any], timeout_s: float) -> None:
        """Send a worker the package of its target. If this raises, the function has not run.

        Args:
            worker: the worker.
            package: the zip archive.
            metadata: the metadata of the target.
            timeout_s: the time limit for unpacking, in seconds. The client waits a little longer for the answer.

        Raises:
            NotLoaded: the package can't be loaded.
            DiskFull: the workers' disk can't take it.
            NotSent: the worker could not be reached, ended, or refused; another worker may be tried.
            NoDescriptor, GatewayAway: this process can't reach it.
        """
        head = f"X-Load: {json.dumps(metadata)}\r\n"
        try:
            answer = self._call(worker, "/load", head, package, timeout_s + _GRACE_S)
        except WorkerLost as error:
            if isinstance(error.__cause__, TimeoutError):
                raise NotLoaded(f"The package was not loaded within {timeout_s:g} s.", is_reusable=False) from error
            raise NotSent(f"the worker was lost while it loaded: {error}") from error
        if answer.status in _BAD_LOADS:
            raise NotLoaded(answer.error, is_reusable=True)
        if answer.status == _DISK_FULL:
            raise DiskFull(answer.error)
        if answer.status != 200:
            raise NotSent(f"the worker did not load the package: {answer.error}")

    def execute(self, worker: LeasedWorker, execution: Execution, timeout_s: float) -> Ran:
        """Run one execution on a leased worker and return its outcome.

        Raises:
            NotSent: it has not run.
            NoDescriptor, GatewayAway: it has not run, because this process can't reach the worker.
            WorkerLost: it may have run.
        """
        request = f"{worker.token} {execution.id} {execution.timeout_s}\n".encode() + orjson.dumps(execution.metadata)
        if execution.input is not None:
            request += b"\n" + execution.input.encode("utf-8", "replace")
        answer = self._call(worker, "/execute", "", request, timeout_s)
        if answer.status != 200:
            raise NotSent(f"the worker refused: {answer.error}")
        try:
            return _read_execution(answer.body)
        except (ValueError, TypeError) as error:
            raise WorkerLost(f"the worker's answer can't be read: {error}") from error

    def cancel(self, worker: LeasedWorker, execution_id: str) -> bool:
        """End an execution that runs on a worker. Its `execute` then returns the status `cancelled`.

        Returns:
            Whether the execution was running; False: it has ended, or has not begun.

        Raises:
            NotSent, NoDescriptor, GatewayAway, WorkerLost: the worker could not be asked, or did not answer.
        """
        # Not the kept-alive connection, because `execute` waits for its answer there.
        connection = self._open_connection(worker)
        try:
            body = orjson.dumps({"execution_id": execution_id})
            answer = self._exchange(connection, worker, "/cancel", "", body, _CANCEL_TIMEOUT_S)
        finally:
            connection.close()
        if answer.status not in (202, 404):
            raise NotSent(f"the worker refused to cancel: {answer.error}")
        return answer.status == 202

    def _call(self, worker: LeasedWorker, path: str, head: str, body: bytes, timeout_s: float) -> Answer:
        """Send a request on the worker's kept-alive connection."""
        self._in_use += 1
        try:
            connection = self._take_connection(worker)
            try:
                answer = self._exchange(connection, worker, path, head, body, timeout_s)
            except BaseException:  # also if the greenlet is killed, because the connection then has an unread answer
                connection.close()
                raise
        finally:
            self._in_use -= 1
        if self._gateway is not None and b"connection: close" in answer.head:
            connection.close()
            return answer
        now = time.monotonic()
        self._close_unused(now - _LONGEST_IDLE_S)
        self._idle[worker.worker_id] = (connection, now)
        return answer

    def _exchange(
        self, connection: socket.socket, worker: LeasedWorker, path: str, head: str, body: bytes, timeout_s: float
    ) -> Answer:
        gateway = self._gateway
        if gateway is None:
            begin = f"POST {path} HTTP/1.1\r\nHost: worker\r\n"
        else:
            begin = _begin_at(gateway, worker.address, path)
        request = f"{begin}X-Worker-Secret: {worker.secret}\r\n{head}Content-Length: {len(body)}\r\n\r\n"
        packet = request.encode("ascii") + body
        self._deadlines.add(connection, timeout_s)
        try:
            try:
                # gevent's `sendall` makes an extra system call each time, to ask for the size of the socket's buffer.
                sent = connection.send(packet)
                if sent < len(packet):
                    connection.sendall(packet[sent:])
            except OSError:
                # A server that refuses a large body may answer and close the connection before it has read all of it.
                # If there is no answer, the next line raises an error, too.
                pass
            answer = read_answer(connection, self._largest)
            if gateway is not None:
                gateway.check(answer)
        except NotPassedOn as error:
            raise NotSent(str(error)) from error
        except (OSError, ValueError) as error:
            if not self._deadlines.remove(connection):
                raise WorkerLost("timed out") from TimeoutError("timed out")
            raise WorkerLost(str(error) or type(error).__name__) from error
        finally:
            self._deadlines.remove(connection)
        return answer

    def _take_connection(self, worker: LeasedWorker) -> socket.socket:
        idle = self._idle.pop(worker.worker_id, None)
        if idle is not None:
            if _is_quiet(idle[0]):
                return idle[0]
            idle[0].close()
        return self._open_connection(worker)

    def _open_connection(self, worker: LeasedWorker) -> socket.socket:
        """Open a new connection. Closes the longest idle ones if there are too many, or if no descriptor is left."""
        while self._idle and self._in_use + len(self._idle) > self._most:
            self._close_longest_idle()
        while True:
            try:
                if self._gateway is None:
                    connection = connect(worker.address, _CONNECT_TIMEOUT_S)
                else:
                    connection = self._gateway.connect(_CONNECT_TIMEOUT_S)
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise NotSent(f"no connection to the worker: {error}") from error
                if not self._idle:
                    raise NoDescriptor(_NO_DESCRIPTOR_LEFT, retry_after_s=1) from error
                self._close_longest_idle()
            else:
                connection.settimeout(None)  # `Deadlines` ends what takes too long
                return connection

    def _close_unused(self, since: float) -> None:
        """Close connections that were not used since then. Most of their workers do not exist any more."""
        while self._idle and next(iter(self._idle.values()))[1] < since:
            self._close_longest_idle()

    def _close_longest_idle(self) -> None:
        connection, _ = self._idle.pop(next(iter(self._idle)))
        connection.close()


def _begin_at(gateway: Gateway, address: str, path: str) -> str:
    try:
        return gateway.begin(address, "POST", path)
    except NotPassedOn as error:
        raise NotSent(str(error)) from error


def _shut_down(connection: socket.socket) -> None:
    """End the connection for the greenlet that reads from it or writes to it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _is_quiet(connection: socket.socket) -> bool:
    """Whether nothing has arrived on an idle connection. An end of file would mean that the worker has ended."""
    arrivals = _make_poll()
    arrivals.register(connection, select.POLLIN)
    return not arrivals.poll(0)


def _read_execution(body: bytes) -> Ran:
    """An answer to `/execute`: a line of JSON, the output and the log.

    Raises:
        ValueError, TypeError: the body is not such an answer.
    """
    line, _, rest = body.partition(b"\n")
    head = _parsed(line)
    if not (isinstance(head, dict) and head.keys() >= _ANSWERED):
        raise ValueError("a member is missing")
    size, duration_s = head["output_size"], head["duration_s"]
    if not 0 <= size <= len(rest):
        raise ValueError("the output is cut")
    result = f'{{"duration": {duration_s:.3f}, "output": {rest[:size].decode()}}}'
    log = rest[size:].decode()
    return Ran(head["status"], head.get("message"), result, log, duration_s, head.get("busy_s"), head.get("reason"))


def _parsed(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # orjson refuses lone surrogates, which the message of an exception may have
        return json.loads(line)
