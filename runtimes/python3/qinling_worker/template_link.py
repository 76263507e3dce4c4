"""The supervisor's link to the template process (`template.py`)."""

from __future__ import annotations

import array
import json
import socket
from collections.abc import Callable, Sequence
from typing import Any

from .config import ChildConfig
from .loop import Loop
from .target import Target


class TemplateLink:
    """Sends the template its commands and hands on its reports.

    Args:
        loop: the event loop that watches the socket.
        commands: the supervisor's end of the template's socket.
        pid: the pid of the template.
        on_report: called with each report, and with None when the template has ended.
    """

    def __init__(
        self, loop: Loop, commands: socket.socket, pid: int, on_report: Callable[[dict[str, Any] | None], None]
    ) -> None:
        self.pid = pid
        self._commands = commands
        self._on_report = on_report
        loop.watch(commands.fileno(), self._read)

    def configure(self, config: ChildConfig, entrances: Sequence[int]) -> None:
        """Send the template the configuration of children.

        Args:
            config: the configuration of a child.
            entrances: descriptors to which a child writes `0` to enter its control groups.
        """
        self._send({"do": "configure", "config": config.encode().decode()}, entrances)

    def spawn(self, ends: tuple[int, int], target: Target) -> None:
        """Ask for a new child. The template reports `spawned` or `unspawned`, and later `exited` with the exit code.

        Args:
            ends: the child's ends of its channel and its log.
            target: the target that the child loads.
        """
        self._send({"do": "spawn", "entry": target.entry, "per_call": target.per_call}, ends)

    def clean(self, *, ended: bool) -> None:
        """Ask to end all processes of the child and to empty the scratch folders. The template reports `cleaned`.

        Args:
            ended: whether the child seems to have ended by itself; the template then reports its exit code first.
        """
        self._send({"do": "clean", "ended": ended})

    def sweep(self) -> None:
        """Ask to empty the scratch folders without ending processes. The template reports `swept`."""
        self._send({"do": "sweep"})

    def pause(self) -> None:
        """Ask to stop all processes of the child. The template reports `awake` if one of them runs before `resume`."""
        self._send({"do": "pause"})

    def resume(self) -> None:
        """Ask to continue the processes that `pause` has stopped. There is no report."""
        self._send({"do": "resume"})

    def _send(self, command: dict[str, Any], fds: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._commands.sendmsg([json.dumps(command).encode()], ancillary)
        except OSError:
            self._on_report(None)

    def _read(self, _mask: int) -> None:
        data = self._commands.recv(64 * 1024)
        self._on_report(json.loads(data) if data else None)
