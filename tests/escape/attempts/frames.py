"""Frames that a function sends to its supervisor in the name of the child's loop."""

from __future__ import annotations

from tests.escape.attempt import Attempt

_FORGE = """
import os, socket, struct, time
BARE, VALUE = 0, 3
def forge(kind, payload):
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
        except OSError:
            continue
        channel = socket.socket(fileno=int(name))
        channel.sendall(struct.pack("!IBd", len(payload), kind, 0.0) + payload)
        channel.detach()
"""
# It says that it uses much, and then takes it: less than the 16 MiB above `memory_size` that the kernel allows. The
# runner's function is the entry of this module, too.
_BASELINE = """
from main import main
held = []
for _ in range(5):
    forge(BARE, b"400000000")
    held.append(b"x" * (8 << 20))
    forge(BARE, b"400000000")
    time.sleep(0.05)
def attempt():
    time.sleep(0.2)
    return len(held) == 5
"""


def _answer(name: str, payload: str, *defences: str) -> Attempt:
    source = f"{_FORGE}\ndef attempt():\n    forge(VALUE, {payload})\n    os._exit(0)\n"
    return Attempt(name, source, defences, ("exited",), ("broken answer",))


ATTEMPTS = [
    _answer("an answer that is not JSON", "b'{}, {'", "answers are checked"),
    _answer("an answer above the limit", "b'{\"returned\": true, \"x\": \"%s\"}' % (b'x' * (1 << 20))",
            "answers are bounded"),
    Attempt("a baseline of memory at will", _FORGE + _BASELINE, ("one baseline",), ("load", "memory"),
            load=(("memory_size", 32 << 20), ("entry", "MODULE.main"))),
]  # fmt: skip
