"""Attempts to reach files of the host, of the service and of the worker."""

from __future__ import annotations

from tests.escape.attempt import Attempt


def _file(name: str, source: str, *defences: str) -> Attempt:
    lines = ["import os", "from host import NOTE", "def attempt():", *(f"    {line}" for line in source.splitlines())]
    return Attempt(name, "\n".join(lines), defences)


_ELSEWHERE = ("mount namespace", "landlock")

ATTEMPTS = [
    _file("a file of the service", "return bool(open(NOTE).read())", *_ELSEWHERE),
    _file("a file of the host", "return bool(open('/etc/hostname').read())", *_ELSEWHERE),
    _file("the host's hardware", "return bool(os.listdir('/sys/class'))", *_ELSEWHERE),
    _file("the host's folders", "return 'var' in os.listdir('/')", *_ELSEWHERE),
    _file("a file for others in /var/tmp",
          "path = f'/var/tmp/qf-escape-{os.getpid()}'\nopen(path, 'w').close()\nos.unlink(path)\nreturn True",
          *_ELSEWHERE),
    _file("the code of the function, for later calls",
          "os.chmod(__file__, 0o644)\nopen(__file__, 'a').close()\nreturn True", "second uid", "landlock"),
    _file("a module beside the code, for later calls",
          "folder = os.path.dirname(__file__)\nos.chmod(folder, 0o755)\nopen(f'{folder}/json.py', 'w').close()\n"
          "os.unlink(f'{folder}/json.py')\nreturn True", "second uid", "landlock"),
]  # fmt: skip
