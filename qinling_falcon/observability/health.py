"""Whether this process can serve: its neighbours are asked beside each other, all within one deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import gevent

from qinling_falcon.errors import QinlingError

logger = logging.getLogger(__name__)

DEADLINE_S = 2.0

Check = Callable[[], Mapping[str, str] | None]
"""Asks one neighbour. It raises when the neighbour is away; it may return reasons by the names of parts at fault."""


class Health:
    """Asks the neighbours for whoever wants to know; callers that come meanwhile share one run.

    Args:
        checks: by the neighbour's name.
        deadline_s: a neighbour that has not answered by then is at fault.
    """

    def __init__(self, checks: Mapping[str, Check], *, deadline_s: float = DEADLINE_S):
        self._checks = checks
        self._deadline_s = deadline_s
        self._run: gevent.Greenlet | None = None
        self._last: Mapping[str, str] = {}

    def faults(self) -> Mapping[str, str]:
        """The reason by the name of each part that is at fault. Takes no longer than the deadline."""
        if self._run is None:
            self._run = gevent.spawn(self._ask_all)
        found: Mapping[str, str] = self._run.get()
        return found

    def _ask_all(self) -> Mapping[str, str]:
        try:
            asked = {name: gevent.spawn(_ask, name, check) for name, check in self._checks.items()}
            gevent.joinall(list(asked.values()), timeout=self._deadline_s)
            faults: dict[str, str] = {}
            for name, greenlet in asked.items():
                if greenlet.ready():
                    faults |= greenlet.value
                else:
                    greenlet.kill(block=False)
                    faults[name] = f"No answer within {self._deadline_s:g} s."
        finally:
            self._run = None
        self._log(faults)
        return faults

    def _log(self, faults: Mapping[str, str]) -> None:
        """One line for each change: whoever asks every second would fill the log."""
        if faults.keys() != self._last.keys():
            if faults:
                logger.warning("not ready", extra={"faults": faults})
            else:
                logger.info("ready again")
        self._last = faults


def _ask(name: str, check: Check) -> Mapping[str, str]:
    try:
        return check() or {}
    except QinlingError as error:
        return {name: error.message}
    except Exception as error:
        # What a client library says may name hosts and users, which are not for everybody.
        logger.warning("neighbour is away", extra={"neighbour": name, "reason": str(error)})
        return {name: "It does not answer as it should; the log of web has more."}
