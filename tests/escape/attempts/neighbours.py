"""Attempts to reach the host's network and names, and other workers."""

from __future__ import annotations

from tests.escape.attempt import Attempt

# It fills what one user may have. Its worker is one of its own.
_PROCESSES = """
import os, time
def earlier():
    return None
def other():
    for _ in range(1000):
        try:
            if os.fork() == 0:
                time.sleep(600)
        except OSError:
            return True
def attempt(_, filled):
    for _ in range(100):
        try:
            if os.fork() == 0:
                time.sleep(1)
                os._exit(0)
        except OSError:
            return True
    return False
"""
_LEFT = """
import os
def attempt():
    word = f"600.{int.from_bytes(os.urandom(7), 'big')}"
    executed, end = os.pipe()  # it is closed when the program is executed
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv("/bin/sleep", ["sleep", word])
        os._exit(0)
    os.wait()
    os.close(end)
    os.read(executed, 1)
    return word
"""

ATTEMPTS = [
    Attempt("the processes that another worker may have", _PROCESSES,
            ("own uids", "own user namespace", "user namespace of the sandbox"), load=(("memory_size", 128 << 20),)),
    Attempt("a process that outlives its worker", _LEFT,
            ("pid namespace", "worker's control group", "ended with its tree"), load=(("memory_size", 66 << 20),),
            outlives=True),
    Attempt("a port of the host", "import socket\nfrom host import PORT\ndef attempt():\n"
            "    return bool(socket.create_connection(('127.0.0.1', PORT), 2))", ("net namespace",)),
    Attempt("an abstract socket of the host", "import socket\nfrom host import ABSTRACT\ndef attempt():\n"
            "    socket.socket(socket.AF_UNIX).connect(ABSTRACT)\n    return True",
            ("net namespace", "landlock scopes")),
    Attempt("an abstract socket of another worker",
            "import os, socket\ndef other():\n    global server\n    server = socket.socket(socket.AF_UNIX)\n"
            "    server.bind('\\0qf-' + os.urandom(8).hex())\n    server.listen()\n"
            "    return server.getsockname().decode()\n"
            "def attempt(name):\n    socket.socket(socket.AF_UNIX).connect(name)\n    return True",
            ("net namespace", "landlock scopes")),
    Attempt("a port of another worker's function",
            "import socket\ndef other():\n    global server\n    server = socket.create_server(('127.0.0.1', 0))\n"
            "    return server.getsockname()[1]\n"
            "def attempt(port):\n    return bool(socket.create_connection(('127.0.0.1', port), 2))",
            ("net namespace",)),
    Attempt("a System V segment of the host", "from calls import call\nfrom host import SEGMENT\ndef attempt():\n"
            "    return call('shmget', SEGMENT, 4096, 0) >= 0", ("ipc namespace", "seccomp")),
    Attempt("the host's name", "import os\nfrom host import NAME\n"
            "def attempt():\n    return os.uname().nodename == NAME",
            ("uts namespace",)),
    Attempt("the service's processes", "import os\nfrom host import MANAGER\ndef attempt():\n"
            "    return b'escape.runner' in open(f'/proc/{MANAGER}/cmdline', 'rb').read()", ("pid namespace",)),
]  # fmt: skip
