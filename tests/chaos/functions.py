"""The functions that chaos calls. Each run leaves a file in the counter directory, outside of its sandbox."""

from __future__ import annotations

from dataclasses import dataclass, replace

# A file for each run, because a later run of the execution may have another user id. Its name tells when the run has
# begun, in nanoseconds of the monotonic clock. It holds when the run has ended, if it has got so far.
_COUNT = """
import os, time

class Run:
    def __init__(self, context):
        name = f"/counters/{context['execution_id']}.{time.monotonic_ns()}.{os.urandom(6).hex()}"
        self.file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        os.write(self.file, b"%d\\n" % time.monotonic_ns())
        os.close(self.file)

def main(context, seconds, text=""):
    with Run(context):
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """A function.

    Attributes:
        source: its code.
        ends: the statuses with which its executions may end.
        weight: its share of the load.
        timeout_s: its time limit.
        max_attempts: how often an execution is started, if it fails.
        text_size: the smallest and the largest size of the text in its input; its result is the size.
        is_retried: whether a caller retries all of its executions that have failed, at once.
        is_purged: whether a caller deletes all of its executions that have ended, at once.
    """

    source: str
    ends: tuple[str, ...] = ("success",)
    weight: float = 1.0
    timeout_s: int = 10
    max_attempts: int = 1
    text_size: tuple[int, int] | None = None
    is_retried: bool = False
    is_purged: bool = False


def _kind(body: str, *ends: str, weight: float = 1.0, timeout_s: int = 10, max_attempts: int = 1) -> Kind:
    lines = "".join(f"        {line}\n" for line in body.splitlines())
    return Kind(_COUNT + lines, ends, weight, timeout_s, max_attempts)


GOOD = _kind("time.sleep(seconds)\nreturn seconds", "success", weight=3)
OTHER_GOOD = _kind("time.sleep(seconds / 2)\nreturn [seconds]", "success", weight=1)
# These fail in each attempt.
RAISES_THRICE = _kind("raise ValueError('always')", "dead", max_attempts=3)
TIMES_OUT_THRICE = _kind("time.sleep(60)", "dead", weight=0.05, timeout_s=1, max_attempts=3)
# Fails in its first run, as far as its files tell, and succeeds in a further one. Lost attempts count, too.
FAILS_ONCE = _kind(
    "import glob\n"
    "if len(glob.glob(f\"/counters/{context['execution_id']}.*\")) < 2:\n"
    "    raise ValueError('the first time')\n"
    "return 'at last'",
    "success",
    max_attempts=20,
)
# Hostile ones, with a single attempt.
DIES = _kind("os._exit(7)", "failed")
RAISES = _kind("raise ValueError('once')", "failed")
TIMES_OUT = _kind("time.sleep(60)", "failed", weight=0.1, timeout_s=1)
HANGS = _kind(
    "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True:\n    pass",
    "failed",
    weight=0.05,
    timeout_s=1,
)
FLOODS = _kind("for _ in range(20_000):\n    print('x' * 100)\nreturn seconds", "success", weight=0.3)
BAD_RESULT = _kind("return object()", "failed")
# Hangs for longer than a scenario lasts, without using a processor. A load never chooses it.
HANGS_ON = _kind(
    "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True:\n    time.sleep(60)",
    "cancelled",
    weight=0,
    timeout_s=300,
)

WELL_BEHAVED = (GOOD, OTHER_GOOD)
RETRIED = (GOOD, RAISES_THRICE, TIMES_OUT_THRICE, FAILS_ONCE)
HOSTILE = (GOOD, OTHER_GOOD, DIES, RAISES, TIMES_OUT, HANGS, FLOODS, BAD_RESULT)

# For callers who do more than to have executions accepted.
SLOW = _kind("time.sleep(2)", "success", weight=0.15)
LARGE = replace(_kind("return len(text)", "success", weight=0.1), text_size=(100 * 1024, 1_000_000))
# Fails in its first run, as far as its files tell, so it succeeds when it is retried.
FAILS_UNTIL_RETRIED = replace(FAILS_ONCE, ends=("success", "failed"), max_attempts=1, weight=0.4, is_retried=True)
RAISES_SELDOM = replace(RAISES, weight=0.4)
DEAD = replace(RAISES_THRICE, weight=0.3)
PURGED = replace(RAISES_THRICE, weight=0.3, is_purged=True)

PROJECTS = {
    "project-a": (GOOD, SLOW, FAILS_UNTIL_RETRIED),
    "project-b": (GOOD, RAISES_SELDOM, PURGED),
    "project-c": (GOOD, LARGE, DEAD),
}
