"""Finds out whether this process can serve: checks all its dependencies in parallel, within one deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import gevent

from qinling_falcon.errors import QinlingError

logger = logging.getLogger(__name__)

DEADLINE_S = 2.0

Check = Callable[[], Mapping[str, str] | None]
"""Checks one dependency. It raises if the dependency is away, or returns reasons by the names of the failed parts."""


class Health:
    """Runs the checks. Concurrent callers share one run.

    Args:
        checks: the checks, by the dependency's name.
        deadline_s: a check that takes longer counts as failed.
    """

    def __init__(self, checks: Mapping[str, Check], *, deadline_s: float = DEADLINE_S):
        self._checks = checks
        self._deadline_s = deadline_s
        self._run: gevent.Greenlet | None = None
        self._last: Mapping[str, str] = {}

    def faults(self) -> Mapping[str, str]:
        """The failed parts by name, each with its reason. Takes no longer than the deadline."""
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
        """Log only changes, because load balancers may ask every second."""
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
        # The text of the error may name hosts and users, so it is not shown to callers.
        logger.warning("neighbour is away", extra={"neighbour": name, "reason": str(error)})
        return {name: "It does not answer as it should; the log of web has more."}
