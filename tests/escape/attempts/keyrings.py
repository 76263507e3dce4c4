"""Attempts on kernel keyrings: to read the operator's keys, and to leave keys for later users of the same keyring."""

from __future__ import annotations

from tests.escape.attempt import Attempt

_KEYS = """
import ctypes
from calls import call
THREAD, PROCESS, SESSION, USER, USER_SESSION = -1, -2, -3, -4, -5
def leave(ring):
    return call("add_key", b"user", b"qf-note", b"note", 4, ring) > 0
def find(ring, name):
    found = call("keyctl", 10, ring, b"user", name, PROCESS)  # and link it: a key that is not linked can't be read
    room = ctypes.create_string_buffer(100)
    call("keyctl", 11, found, room, 100)
    return bool(room.value)
"""


def _keys(name: str, rest: str, *defences: str) -> Attempt:
    return Attempt(name, _KEYS + rest, ("seccomp", *defences))


ATTEMPTS = [
    _keys("a key of the process's own", "def attempt(): return leave(PROCESS)"),
    _keys("a key of the operator's session", "def attempt(): return find(SESSION, b'qf-operator')", "session keyring"),
    Attempt("the names of the operator's keys", "def attempt(): return 'qf-operator' in open('/proc/keys').read()",
            ("hidden key names",)),
    _keys("a note in the user's keyring for the next call",
          "def earlier():\n    try: return leave(USER)\n    except OSError: return False\n"
          "def attempt(left): return find(USER, b'qf-note')"),
    _keys("a new session keyring", "def attempt(): return call('keyctl', 1, None) > 0"),
    _keys("a keyring that lasts for days", "def attempt(): return call('keyctl', 22, -1, PROCESS) > 0"),
    _keys("a request for a key", "def attempt(): return leave(PROCESS) and "
          "call('request_key', b'user', b'qf-note', None, PROCESS) > 0"),
]  # fmt: skip
