"""Attempts to reach files of the host, of the service and of the worker."""

from __future__ import annotations

from tests.escape.attempt import Attempt


def _file(name: str, source: str, *defences: str) -> Attempt:
    lines = ["import os", "from host import NOTE", "def attempt():", *(f"    {line}" for line in source.splitlines())]
    return Attempt(name, "\n".join(lines), defences)


_CODE = "second uid", "read-only code"
_ELSEWHERE = ("mount namespace", "landlock")

ATTEMPTS = [
    _file("a file of the service", "return bool(open(NOTE).read())", *_ELSEWHERE),
    _file("a file of the host", "return bool(open('/etc/hostname').read())", *_ELSEWHERE),
    _file("the host's hardware", "return bool(os.listdir('/sys/class'))", *_ELSEWHERE),
    _file("the host's folders", "return 'home' in os.listdir('/')", *_ELSEWHERE),
    _file("a file for others in /var/tmp",
          "if os.path.islink('/var/tmp'): return False  # the worker's own /tmp\n"
          "path = f'/var/tmp/qf-escape-{os.getpid()}'\nopen(path, 'w').close()\nos.unlink(path)\nreturn True",
          *_ELSEWHERE),
    _file("the code of the function, for later calls",
          "os.chmod(__file__, 0o644)\nopen(__file__, 'a').close()\nreturn True", *_CODE, "landlock"),
    _file("a module beside the code, for later calls",
          "folder = os.path.dirname(__file__)\nos.chmod(folder, 0o755)\nopen(f'{folder}/json.py', 'w').close()\n"
          "os.unlink(f'{folder}/json.py')\nreturn True", *_CODE, "landlock"),
    # Landlock does not limit these calls.
    _file("the times of a device, which other workers see", "os.utime('/dev/null')\nreturn True", "read-only devices"),
    _file("the mode of the code, for later calls", "os.chmod(os.path.dirname(__file__), 0o755)\nreturn True", *_CODE),
    _file("the times of the code, for later calls", "os.utime(__file__, (5, 5))\nreturn True", *_CODE),
    _file("a note on the code, for later calls",
          "os.chmod(__file__, 0o644)\nos.setxattr(__file__, 'user.note', b'1')\nreturn True", *_CODE),
]  # fmt: skip
