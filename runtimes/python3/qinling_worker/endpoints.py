"""The worker's HTTP endpoints. They check requests and pass them to the supervisor."""

from __future__ import annotations

import io
import json
import os
import socket
from typing import TYPE_CHECKING

from . import linux
from .calls import BadCall, Call
from .cleaner import sweep
from .config import Config
from .disk import INSUFFICIENT_STORAGE, DiskError
from .http_server import Connection, Head, HTTPServer
from .loop import Loop
from .package import BadPackage, open_upload, unpack
from .target import Target

if TYPE_CHECKING:
    from .supervisor import Supervisor

_UPLOAD_SLACK = 1 << 20


class Endpoints:
    """Serves requests for a supervisor.

    Args:
        supervisor: runs the executions.
        config: the configuration from the orchestrator.
        loop: the event loop.
        listener: the listening socket.
    """

    def __init__(self, supervisor: Supervisor, config: Config, loop: Loop, listener: socket.socket) -> None:
        self._supervisor = supervisor
        self._config = config
        HTTPServer(
            loop,
            listener,
            config.secret,
            {
                b"GET /ping": self._ping,
                b"POST /load": self._load,
                b"POST /execute": self._execute,
                b"POST /cancel": self._cancel,
                b"POST /shutdown": self._shutdown,
            },
            frozenset({b"GET /ping"}),
            (b"POST /load", config.max_unpacked_size + _UPLOAD_SLACK, self._open_upload),
        )

    def _ping(self, connection: Connection, _head: Head, _body: bytes) -> None:
        supervisor = self._supervisor
        state = {"ready": True, "loaded": supervisor.target is not None, "busy": supervisor.is_busy}
        connection.answer(200, json.dumps(state).encode())

    def _load(self, connection: Connection, head: Head, _body: bytes) -> None:
        file, connection.file = connection.file, None
        assert file is not None
        with file:
            try:
                target = Target.decode(head.load)
            except (ValueError, KeyError, TypeError) as error:
                connection.refuse(400, f"not a usable X-Load header: {type(error).__name__}: {error}")
                return
            loaded = self._supervisor.target
            if loaded is not None and loaded.name != target.name:
                connection.refuse(409, "another target is loaded already")
                return
            if loaded is None:
                try:
                    self._unpack(file)
                except BadPackage as error:
                    connection.refuse(422, str(error))
                    return
                except DiskError as error:
                    connection.refuse(INSUFFICIENT_STORAGE, str(error))
                    return
                if self._config.code_fd is not None:
                    os.close(self._config.code_fd)  # nothing writes to the folder from now on
                self._supervisor.load(target)
        connection.answer(200, b'{"loaded": true}')

    def _open_upload(self) -> io.FileIO:
        # A loaded worker answers without the package, but reads it first.
        return io.FileIO(os.devnull, "r+") if self._supervisor.target else open_upload(self._config.writable_code_dir)

    def _unpack(self, file: io.FileIO) -> None:
        """Unpack the package. If this fails and the folder can't be emptied, the worker ends.

        Raises:
            BadPackage: the package can't be unpacked.
            DiskError: the disk can't take it.
        """
        config, folder = self._config, self._config.writable_code_dir
        try:
            unpack(file, folder, config.max_package_files, config.max_unpacked_size, config.unpack_timeout_s)
        except (BadPackage, DiskError):
            sweep([folder])
            if os.listdir(folder):
                self._supervisor.stop(1)  # the next function that is loaded must not find code of this one
            raise
        finally:
            linux.return_free_memory()  # the memory of unpacking does not count for the function, but is the worker's

    def _execute(self, connection: Connection, _head: Head, body: bytes) -> None:
        try:
            call = Call(connection, body)
        except BadCall as error:
            connection.refuse(400, str(error))
            return
        refusal = self._supervisor.execute(call)
        if refusal is not None:
            connection.refuse(409, refusal)

    def _cancel(self, connection: Connection, _head: Head, body: bytes) -> None:
        try:
            execution_id = json.loads(body)["execution_id"]
        except (ValueError, KeyError, TypeError, RecursionError):
            connection.refuse(400, "execution_id is missing")
            return
        if self._supervisor.cancel(execution_id):
            connection.answer(202, b"{}")
        else:
            connection.refuse(404, "that execution is not running")

    def _shutdown(self, connection: Connection, _head: Head, _body: bytes) -> None:
        connection.answer(202, b"{}")
        self._supervisor.stop(0)
