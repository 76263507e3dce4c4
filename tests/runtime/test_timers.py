"""Interval timers that a call leaves do not fire in later calls."""

from __future__ import annotations

import pytest

from tests.runtime.client import Worker

WORK = "    end = time.process_time() + 0.5\n    while time.process_time() < end: pass\n    return 'fine'\n"


@pytest.mark.parametrize("name", ["ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"])
@pytest.mark.parametrize("interval", [0, 0.3])
@pytest.mark.parametrize("ending", ["return", "raise ValueError"])
def test_a_timer_that_a_call_leaves_is_cancelled(worker: Worker, name: str, interval: float, ending: str) -> None:
    worker.load(
        f"import signal, time\ndef main(do=None):\n    if do:\n"
        f"        signal.setitimer(signal.{name}, 0.3, {interval})\n        {ending}\n{WORK}"
    )
    assert worker.execute("leave").printed.startswith(
        "Cancelled at the end of the call: a timer of signal.alarm or signal.setitimer\n"
    )
    answer = worker.execute()
    assert (answer.output, answer.printed) == ("fine", "")


def test_an_alarm_that_a_call_leaves_is_cancelled(worker: Worker) -> None:
    worker.load(
        "import signal, time\ndef main(do=None):\n    if do: return signal.alarm(1)\n    time.sleep(1.2)\n"
        "    return 'fine'\n"
    )
    assert "a timer of signal.alarm" in worker.execute("leave").printed
    assert worker.execute().output == "fine"


def test_a_periodic_timer_of_the_import_goes_on(worker: Worker) -> None:
    worker.load(
        "import signal, time\nticks = []\nsignal.signal(signal.SIGALRM, lambda *_: ticks.append(1))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\n"
        "def main():\n    seen = len(ticks)\n    while len(ticks) == seen: time.sleep(0.001)\n    return 'ticked'\n"
    )
    for _ in range(3):
        answer = worker.execute()
        assert (answer.output, answer.printed) == ("ticked", "")
