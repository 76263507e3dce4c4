"""Checks that must hold for the pool's records in Redis after each step."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from tests.pool.machine import BOUNDS, LIMITS, Holder
from tests.pool.model import Model

OF_PROCESSES = ("held", "grants", "generations", "server", "reaper", "reported", "turn", "wakeups")


def everything_is_as_in_the_model(seen: dict[str, Any], model: Model) -> None:
    assert seen["runtimes"] == {name: str(warm) for name, warm in model.runtimes.items()}
    assert seen["bare"] == {name: str(since) for name, since in model.bare.items()}
    assert seen["workers"] == set(model.workers)
    assert seen["lost"] == {execution: f"detail {execution}" for execution in model.lost}
    assert seen["waiters"] == {waiter.name: waiter.till for waiter in model.waiters}
    for name, worker in model.workers.items():
        record = seen[f"worker:{name}"]
        assert (record["runtime"], record["state"], record["image"]) == (worker.runtime, worker.state, worker.image)
        assert record.get("target") == worker.target
        assert int(record.get("token", 0)) == worker.token
        if worker.lease:
            assert record["execution"] == worker.lease.wanted.execution
            assert record["holder"] == worker.lease.wanted.holder
            assert record["accepted"] == str(int(worker.lease.accepted))
            assert record["detail"] == worker.lease.wanted.detail
            assert ("doomed" in record) == worker.doomed
            assert seen["leases"][name] == worker.lease.deadline
        else:
            assert not {"execution", "holder", "detail"} & set(record)


def every_worker_is_in_the_sets_of_its_state_only(seen: dict[str, Any]) -> None:
    places: dict[str, list[str]] = {name: [] for name in seen["workers"]}
    for key, members in seen.items():
        kind = key.split(":")[0]
        if kind in ("starting", "warm", "draining", "leases") or key == "idle":
            for name in members:
                places[name].append(kind)
    for name, kinds in places.items():
        record = seen[f"worker:{name}"]
        assert kinds == [record["state"].replace("leased", "leases")]
        live = name in seen.get(f"live:{record['runtime']}", ())
        assert live == (record["state"] in ("warm", "idle", "leased"))
        if record["state"] == "idle":
            assert name in seen[f"idle:{record['target']}"]


def counts_are_what_is_there_and_within_limits(seen: dict[str, Any], model: Model) -> None:
    leased = [seen[f"worker:{name}"] for name in seen["leases"]]
    for attribute, limit in (("function", LIMITS.function_concurrency), ("project", LIMITS.project_concurrency)):
        expected = Counter(record[attribute] for record in leased)
        assert not expected or max(expected.values()) <= limit
        counted = {key.split(":", 2)[2]: len(value) for key, value in seen.items() if f"running:{attribute}" in key}
        assert Counter({name: count for name, count in counted.items() if count}) == expected
    assert {record["execution"] for record in leased if record["detail"]} == set(seen["executions"])
    waiting = [waiter.wanted for waiter in model.waiters]
    for attribute in ("function", "project"):
        expected = Counter(getattr(wanted, attribute) for wanted in waiting)
        prefix = f"waiting:{attribute}:"
        counted = {key.removeprefix(prefix): len(value) for key, value in seen.items() if key.startswith(prefix)}
        assert counted == expected
        bound = BOUNDS.of_function if attribute == "function" else BOUNDS.of_project
        assert not expected or max(expected.values()) <= bound
    assert len(waiting) <= BOUNDS.of_all
    planned = sum(model.plan().values())
    assert planned == 0 or len(seen["workers"]) + planned <= LIMITS.max_workers


def no_waiter_waits_beside_a_free_worker(model: Model) -> None:
    for waiter in model.waiters:  # the model is what Redis has: checked above
        assert not (model.permitted(waiter.wanted) and model.fitting(waiter.wanted))


def waiters_are_queued_or_notified(
    seen: dict[str, Any], model: Model, holders: list[Holder], connection: PipelinedConnection
) -> None:
    queued = set(seen["waiters"])
    for holder in holders:
        messages = connection.call("LRANGE", keys.grants(holder.name), 0, -1)
        told = {json.loads(message)[0] for message in messages}
        mine = {name for name in queued if name.startswith(f"{holder.name}/")}
        assert not told & mine
        assert mine <= holder.waiting
        if holder.name in model.holders:  # else its next heartbeat tells it to ask again
            assert holder.waiting <= told | mine


def nothing_is_left_over(seen: dict[str, Any], connection: PipelinedConnection) -> None:
    """Every key is one that the snapshot explains, or belongs to a process or the pool as a whole."""
    for key in connection.call("KEYS", "qf:{pool}:*"):
        name = key.decode().removeprefix("qf:{pool}:")
        assert name in seen or name.split(":")[0] in OF_PROCESSES, f"{name} is left over"
