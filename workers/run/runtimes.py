"""The local runtimes: registered by whoever starts the service, if they may."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from qinling_falcon.settings import Settings
from workers.run.client import Api, Away, NotAllowed
from workers.run.errors import StartError

Wait = Callable[[Callable[[], bool], str, str], None]


def find_runtime(api: Api, settings: Settings, wanted: Sequence[tuple[str, str]], wait: Wait) -> str | None:
    """The id of a local runtime that works, after those that are missing were registered.

    None: Keystone is away, which for a moment must not keep a service from starting; or the policy has others register
    runtimes. A crash amid this leaves some registered, which the next start finds.

    Args:
        api: the service's.
        settings: those of all processes.
        wanted: the local runtimes, as (name, image).
        wait: waits for a condition, of a thing, with the name of the log that would say more.

    Raises:
        StartError: no runtime works.
    """
    try:
        api.log_in()
        return _register(api, settings, wanted, wait)
    except Away as error:
        print(
            f"{error}. Until it does, calls are answered 503. Local runtimes were not looked for: those that are"
            " registered are served, and a later start registers those that are missing.",
            file=sys.stderr,
        )
        return None


def _register(api: Api, settings: Settings, wanted: Sequence[tuple[str, str]], wait: Wait) -> str | None:
    known = {runtime["name"] for runtime in api.runtimes()}
    for name, image in wanted:
        if name not in known:
            try:
                api.create_runtime(name, image)
            except NotAllowed:
                print(
                    f"Runtime {name} is not registered: the policy (runtime:create) does not let"
                    f" {settings.os_username or 'everybody'} do that. Whom it lets does it by:"
                    f" openstack runtime create {image} --name {name}",
                    file=sys.stderr,
                )
    names = [name for name, _ in wanted]

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
