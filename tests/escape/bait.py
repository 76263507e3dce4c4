"""Sets up things on the host that attempts try to reach: a port, a socket, a file, a key. They have no protection."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_IPC_CREAT, _IPC_RMID = 0o1000, 0
_JOIN_SESSION_KEYRING, _SESSION = 1, -3


@contextlib.contextmanager
def laid_out(var_dir: Path, numbers: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Set the things up; yields their names, for the module `host` of the attempts.

    Args:
        var_dir: the service's folder.
        numbers: the numbers of system calls on this architecture.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # In a new session keyring, so that no key stays in the keyring of the user who runs this.
    libc.syscall(ctypes.c_long(numbers["keyctl"]), ctypes.c_long(_JOIN_SESSION_KEYRING), None)
    key = (b"user", b"qf-operator", b"secret", ctypes.c_long(6), ctypes.c_long(_SESSION))
    libc.syscall(ctypes.c_long(numbers["add_key"]), *key)
    note = var_dir / "note"
    note.write_text("of the service")
    for path in (note, *note.parents[:2]):
        path.chmod(0o755 if path.is_dir() else 0o644)
    segment_key = 1 + secrets.randbelow(0x7FFFFFFF)
    segment = libc.shmget(segment_key, 4096, _IPC_CREAT | 0o666)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0qf-escape-{secrets.token_hex(8)}")
        abstract.listen()
        try:
            yield {
                "PORT": listener.getsockname()[1],
                "ABSTRACT": abstract.getsockname().decode(),
                "SEGMENT": segment_key,
                "NOTE": str(note),
                "NAME": os.uname().nodename,
                "MANAGER": os.getpid(),
            }
        finally:
            libc.shmctl(segment, _IPC_RMID, None)
