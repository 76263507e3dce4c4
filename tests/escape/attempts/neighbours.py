"""Attempts to reach the host's network and names, and other workers."""

from __future__ import annotations

from tests.escape.attempt import Attempt

ATTEMPTS = [
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
