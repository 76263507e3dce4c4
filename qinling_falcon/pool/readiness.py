"""Whether the pool can serve, for `GET /readyz`."""

from __future__ import annotations

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.settings import Settings

_MOST_NAMED = 5


class PoolReadiness:
    """Finds what keeps the pool from serving, in one round trip.

    Args:
        connection: the process's connection to Redis.
        settings: how long starting a worker takes at most.
        clock: for tests.
    """

    def __init__(self, connection: PipelinedConnection, settings: Settings, *, clock: Clock | None = None):
        self._scripts = ScriptRunner(connection, settings, clock)
        self._start_s = settings.worker_start_timeout_s

    def faults(self) -> dict[str, str]:
        """The parts at fault, `pool` or `runtimes`, each with its reason.

        A runtime is at fault when it keeps warm workers and has had no worker at all, in whatever state, for longer
        than starting one may take (`WORKER_START_TIMEOUT_S`). Runtimes without a pool are not: those that are being
        created or deleted, and those in status `error`, which their maker has to mend.

        Raises:
            PoolUnavailable: Redis is away.
        """
        active, *rest = self._scripts.run("readiness", int(self._start_s * 1000))
        if not active:
            # What it wrote of runtimes is as old as its end.
            return {"pool": "No pool manager is active: workers are neither started nor replaced."}
        without = [(runtime.decode(), ms / 1000) for runtime, ms in zip(rest[::2], rest[1::2], strict=True)]
        if not without:
            return {}
        named = ", ".join(f"{runtime} (for {seconds:.0f} s)" for runtime, seconds in without[:_MOST_NAMED])
        more = f" and {len(without) - _MOST_NAMED} more" if len(without) > _MOST_NAMED else ""
        return {
            "runtimes": f"Runtimes without a worker for longer than {self._start_s:g} s: {named}{more}."
            " The log of pool says why workers don't start."
        }
