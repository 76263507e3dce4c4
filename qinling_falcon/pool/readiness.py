"""Whether the pool can serve, for `GET /readyz`."""

from __future__ import annotations

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.network import why_unreachable
from qinling_falcon.pool.runner import Clock, ScriptRunner
from qinling_falcon.settings import Settings

_MOST_NAMED = 5


class PoolReadiness:
    """Checks whether the pool can serve, in one Redis round trip.

    Args:
        connection: the process's connection to Redis.
        settings: `WORKER_START_TIMEOUT_S`.
        clock: for tests.
    """

    def __init__(self, connection: PipelinedConnection, settings: Settings, *, clock: Clock | None = None):
        self._scripts = ScriptRunner(connection, clock)
        self._start_s = settings.worker_start_timeout_s

    def faults(self) -> dict[str, str]:
        """The failed parts, `pool` or `runtimes`, each with its reason.

        A runtime has failed if it should keep warm workers and has had no worker in any state for longer than
        `WORKER_START_TIMEOUT_S`. Runtimes without a pool never count: those that are being created or deleted, and
        those with status `error`, which their owner has to repair.

        Raises:
            PoolUnavailable: Redis is away.
        """
        manager, *rest = self._scripts.run("readiness", int(self._start_s * 1000))
        if not manager:
            # Without a manager, the data about runtimes in Redis is out of date.
            return {"pool": "No pool manager is active: workers are neither started nor replaced."}
        if (reason := why_unreachable(manager.decode())) is not None:
            return {"pool": reason}
        without = [(runtime.decode(), ms / 1000) for runtime, ms in zip(rest[::2], rest[1::2], strict=True)]
        if not without:
            return {}
        named = ", ".join(f"{runtime} (for {seconds:.0f} s)" for runtime, seconds in without[:_MOST_NAMED])
        more = f" and {len(without) - _MOST_NAMED} more" if len(without) > _MOST_NAMED else ""
        return {
            "runtimes": f"Runtimes without a worker for longer than {self._start_s:g} s: {named}{more}."
            " The log of pool says why workers don't start."
        }
