"""Time that no call accounts for."""

from __future__ import annotations

from tests.escape.attempt import Attempt

_PAUSE_S = 1.5
# A process looks at the clock all the time, and notes its longest gap.
_WORKS = f"""
import mmap, os, struct, time
def earlier():
    global longest
    longest = mmap.mmap(-1, 8)
    if os.fork() == 0:
        last = time.monotonic()
        while True:
            now = time.monotonic()
            if now - last > struct.unpack_from("d", longest)[0]:
                struct.pack_into("d", longest, 0, now - last)
            last = now
            time.sleep(0.005)
def attempt(_):
    time.sleep(0.1)
    return struct.unpack_from("d", longest)[0] < {_PAUSE_S / 2}
"""

ATTEMPTS = [
    Attempt("work between calls", _WORKS, ("frozen between calls",), load=(("memory_size", 67 << 20),),
            pause_s=_PAUSE_S),
]  # fmt: skip
