"""The supervisor's side of the template process."""

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
        """Tell it what children are to be like.

        Args:
            config: of children.
            entrances: descriptors on which a child enters its control groups.
        """
        self._send({"do": "configure", "config": config.encode().decode()}, entrances)

    def spawn(self, ends: tuple[int, int], target: Target) -> None:
        """Fork a child; report `spawned` or `unspawned`, and `exited` with its exit code when it ends."""
        self._send({"do": "spawn", "entry": target.entry, "per_call": target.per_call}, ends)

    def clean(self, *, ended: bool) -> None:
        """End all that the child has started, and empty the scratch folders; report `cleaned`.

        Args:
            ended: whether the child seems to have ended by itself; the template then reports its exit code first.
        """
        self._send({"do": "clean", "ended": ended})

    def sweep(self) -> None:
        """Empty the scratch folders, and end nothing; report `swept`."""
        self._send({"do": "sweep"})

    def pause(self) -> None:
        """Stop all processes of the child."""
        self._send({"do": "pause"})

    def resume(self) -> None:
        """Continue those that `pause` has stopped."""
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
