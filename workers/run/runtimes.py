"""Finds a working local runtime (the `release` step registers them), for the example that `make run` prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from qinling_falcon.settings import Settings
from workers.run.client import Api
from workers.run.errors import StartError
from workers.service_user import Away

Wait = Callable[[Callable[[], bool], str, str], None]


def find_runtime(api: Api, settings: Settings, names: Sequence[str], wait: Wait) -> str | None:
    """Find a local runtime that works.

    Args:
        api: a client of the service.
        settings: the settings.
        names: the names of the local runtimes.
        wait: waits for a condition; it gets the name of the awaited thing and of the log with details.

    Returns:
        The id of the runtime. None: Keystone is away, which must not prevent the start; or no local runtime is
        registered, because the policy or a setting leaves that to others.

    Raises:
        StartError: no registered local runtime works.
    """
    try:
        api.log_in()
        return _find(api, settings, names, wait)
    except Away as error:
        print(
            f"{error}. Until it does, calls are answered 503. Local runtimes were not looked for: those that are"
            " registered are served, and a later start registers those that are missing.",
            file=sys.stderr,
        )
        return None


def _find(api: Api, settings: Settings, names: Sequence[str], wait: Wait) -> str | None:
    def settled() -> bool:
        return all(row["status"] != "creating" for row in api.runtimes() if row["name"] in names)

    wait(settled, "the runtimes", "pool")
    rows = sorted((row for row in api.runtimes() if row["name"] in names), key=lambda row: names.index(row["name"]))
    for row in rows:
        if row["status"] != "available":
            reason = row.get("status_reason") or "see the log of pool"
            print(f"Runtime {row['name']} is in status {row['status']}: {reason}", file=sys.stderr)
    usable = [str(row["id"]) for row in rows if row["status"] == "available"]
    if rows and not usable:
        raise StartError("no runtime is available", log="pool")
    if usable and settings.warm_workers:
        wait(lambda: api.available_workers(usable[0]) != 0, "a warm worker", "pool")
    return usable[0] if usable else None
