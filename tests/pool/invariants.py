"""Invariants of the pool's records in Redis, which hold after each step, and conditions for single steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.limits import Limits
from qinling_falcon.pool.view import View
from tests.pool.holders import Call, Held

Snapshot = dict[str, Any]

OF_PROCESSES = (
    "held", "grants", "generations", "server", "reaper", "reported", "wakeups", "events", "calls", "kept", "watched",
    "watchers",
)  # fmt: skip

LONGEST_RESERVATION_MS = 10_000


def every_worker_is_in_the_sets_of_its_state_only(seen: Snapshot) -> None:
    places = defaultdict(set)
    for key, value in seen.items():
        kind, _, rest = key.partition(":")
        if kind in ("starting", "warm", "live", "leases", "draining") or (kind == "idle" and rest):
            for worker in value:
                places[worker].add(key)
    held: Counter[str] = Counter()
    for worker in seen["workers"]:
        record = seen[f"worker:{worker}"]
        state, runtime, target = record["state"], record["runtime"], record.get("target")
        expected = {
            "starting": {f"starting:{runtime}"},
            "warm": {f"warm:{runtime}", f"live:{runtime}"},
            "idle": {f"idle:{target}", f"live:{runtime}"},
            "leased": {"leases", f"live:{runtime}"},
            "draining": {"draining"},
        }[state]
        assert places.pop(worker, set()) == expected, (worker, record)
        assert (worker in seen["idle"]) == (state == "idle" and "kept" not in record)
        assert state != "warm" or target is None
        if target:
            is_assigned = state in ("idle", "leased")
            assert (worker in seen[f"assigned:{target.split(':')[0]}"]) == is_assigned, (worker, record)
            held[target] += is_assigned
    assert not places, "workers that nothing knows"
    assert seen["held"] == {target: count for target, count in held.items() if count}
    assert set(seen["assigned_at"]) == set(seen["held"])
    assert set(seen["busy"]) <= set(seen["held"])


def counts_are_what_is_there(seen: Snapshot) -> None:
    """The counts of leases and of waiting calls are right. A count of 0 may be left."""
    leases: Counter[str] = Counter()
    for worker in seen["leases"]:
        record = seen[f"worker:{worker}"]
        function, version = record["target"].split(":")[:2]
        version_and_function = (f"version {function}:{version}", f"function {function}")
        leases.update((*version_and_function, f"project {record['project']}", f"runtime {record['runtime']}"))
        if is_asynchronous(record["holder"]):
            names = ("asynchronous", f"asynchronous project {record['project']}", f"asynchronous function {function}")
            leases.update(names)
    others = ("limit ", "own ", "reserved ")
    counted = {name: int(value) for name, value in seen["concurrency"].items() if not name.startswith(others)}
    assert {name: count for name, count in counted.items() if count} == +leases

    waiting: Counter[str] = Counter()
    entries = defaultdict(set)
    for key, counts in seen.items():
        if not key.startswith("counts:"):
            continue
        queue = key.removeprefix("counts:")
        _, target, _, project = queue.split("|")
        assert set(seen[f"queue:{queue}"]) == set(counts)
        for holder, count in counts.items():
            assert int(count) > 0
            entries[holder].add(queue)
            if not is_asynchronous(holder):
                for name in ("all", f"project {project}", f"function {target.split(':')[0]}"):
                    waiting[name] += int(count)
    assert {name: int(count) for name, count in seen["waiting"].items() if count != "0"} == waiting
    shown = {key.removeprefix("entries:"): value for key, value in seen.items() if key.startswith("entries:") and value}
    assert shown == entries


def pending_recalls_are_those_of_the_workers(seen: Snapshot) -> None:
    records = {worker: seen[f"worker:{worker}"] for worker in seen["workers"]}
    recalled = {worker: float(record["recalled"]) for worker, record in records.items() if "recalled" in record}
    assert seen["recalls"] == recalled
    assert all("recalled" not in record or record["state"] in ("idle", "leased") for record in records.values())


def limits_are_not_exceeded_anew(before: Snapshot, seen: Snapshot) -> None:
    """No lease is added beyond a limit. A limit may be lowered below the leases that there are."""
    counts, old = seen["concurrency"], before.get("concurrency", {})
    for name, count in counts.items():
        kind, _, rest = name.partition(" ")
        if kind in ("version", "function", "project", "runtime") and int(count) > _limit(seen, kind, rest):
            assert int(count) <= int(old.get(name, 0)), f"{name} has {count}"
    assert "max_workers" not in seen["policy"] or len(seen["workers"]) <= max(
        int(seen["policy"]["max_workers"]), len(before.get("workers", ())) + 1
    )


def every_queue_is_in_the_sets_of_its_state_only(seen: Snapshot) -> None:
    queues = {key.removeprefix("queue:") for key, value in seen.items() if key.startswith("queue:") and value}
    escalated = {queue for key, value in seen.items() if key.startswith("escalated:") for queue in value}
    blocked = {queue for key, value in seen.items() if key.startswith("blocked:") for queue in value}
    for queue in blocked:
        runtime, _, _, project = queue.split("|")
        assert queue in seen[f"blocked:project:{project}"] and queue in seen[f"blocked:runtime:{runtime}"]
    assert not escalated & blocked
    assert escalated | blocked <= queues


def executions_are_in_one_place(seen: Snapshot, uncommitted: dict[str, str]) -> None:
    """Every execution that is not committed is either in the journal of its holder or in `lost`."""
    journals = {
        execution: key.removeprefix("journal:")
        for key, value in seen.items()
        if key.startswith("journal:")
        for execution in value
    }
    assert not journals.keys() & seen["lost"].keys()
    for execution, holder in uncommitted.items():
        assert execution in seen["lost"] or journals.get(execution, holder) == holder
    shown = journals.keys() | seen["lost"].keys()
    assert shown == uncommitted.keys() or _of_unknown_holders(seen, uncommitted, shown), (shown ^ uncommitted.keys())


def the_journal_names_the_worker_of_each_execution(seen: Snapshot) -> None:
    for worker in seen["leases"]:
        record = seen[f"worker:{worker}"]
        journaled = seen.get(f"journal:{record['holder']}", {}).get(record["execution"])
        assert journaled is None or journaled.startswith(f"{worker} {record['token']} "), (worker, record, journaled)


def workers_that_may_run_lost_executions_end(seen: Snapshot) -> None:
    """A worker for which a lost execution waits gets no further call: it is gone, drains, or has a lost lease."""
    for value in seen["lost"].values():
        worker, token = [*value.split(" ", 2), ""][:2]
        record = seen.get(f"worker:{worker}")
        if record is not None:
            is_lost_lease = record["state"] == "leased" and record["token"] == token
            assert record["state"] == "draining" or is_lost_lease, (value, record)


def is_asynchronous(holder: str) -> bool:
    return holder.startswith("worker:")


def the_share_was_used(before: Snapshot, holder: str, call: Call, numbers: list[int]) -> None:
    """An asynchronous execution was refused: all, or those of its project or function, had as many leases as may be."""
    assert is_asynchronous(holder)
    counts = before["concurrency"]
    assert numbers == [int(counts.get("asynchronous", 0)), int(counts["limit asynchronous"])]
    assert _has_share(before, call.project, call.function)


def _has_share(seen: Snapshot, project: str, function: str) -> bool:
    """Whether asynchronous executions of a function have as many leases as they may."""
    counts = seen["concurrency"]
    names = ("asynchronous", f"asynchronous project {project}", f"asynchronous function {function}")
    of_all, of_project, of_function = (int(counts.get(name, 0)) + 1 for name in names)  # with one more
    left = int(counts.get("limit asynchronous", 10**9)) - of_all
    is_too_much = of_project > max(1, 3 * left) or of_function > max(1, 3 * left - of_project)
    return left < 0 or is_too_much


def the_share_is_kept(seen: Snapshot, holder: str) -> None:
    """An asynchronous execution has begun: there are not more of them than may be."""
    counts = seen["concurrency"]
    assert not is_asynchronous(holder) or int(counts["asynchronous"]) <= int(counts.get("limit asynchronous", 10**9))


def no_queue_waits_beside_a_worker_for_it(seen: Snapshot) -> None:
    """A call may wait beside a warm worker only until it escalates, or if the worker is the reserve."""
    for key in seen:
        if not key.startswith("queue:") or not seen[key]:
            continue
        queue = key.removeprefix("queue:")
        runtime, target, kind, project = queue.split("|")
        if is_blocked(seen, target, project, runtime):
            continue
        assert queue not in seen[f"blocked:runtime:{runtime}"], f"no limit holds {queue} back"
        warm, held = len(seen.get(f"warm:{runtime}", ())), seen["held"].get(target, 0)
        assert kind == "warm" or not seen.get(f"idle:{target}"), f"{queue} waits beside an idle worker"
        assert held or not warm, f"{queue} waits beside a warm worker, and its target has none"
        assert queue not in seen[f"escalated:{runtime}"] or warm <= 1, f"{queue} waits beside warm workers"
        assert held or queue in seen[f"escalated:{runtime}"], f"{queue} waits for nothing"


def no_worker_was_available(before: Snapshot, call: Call, kind: str, now: int) -> None:
    """A call that got no worker could not have got one."""
    if is_blocked(before, call.target, call.project, call.runtime, call.own_limit):
        return
    warm, held = len(before.get(f"warm:{call.runtime}", ())), before["held"].get(call.target, 0)
    assert kind == "warm" or not before.get(f"idle:{call.target}")
    assert kind == "loaded" or not warm or held
    assert kind != "warm" or warm <= 1


def the_queue_had_room(before: Snapshot, call: Call, bounds: Limits, *, is_full: bool) -> None:
    waiting = {name: int(count) for name, count in before["waiting"].items()}
    of_function = waiting.get(f"function {call.function}", 0)
    of_project = waiting.get(f"project {call.project}", 0)
    has_room = (
        of_function < bounds.waiting_of_function
        and of_function < bounds.waiting_of_project - of_project
        and of_project < bounds.waiting - waiting.get("all", 0)
    )
    assert has_room != is_full


def a_renewal_was_right(
    before: Snapshot, holder: str, held: Held, arrived: int, now: int, tolerance_ms: int
) -> None:
    """A worker that started another execution was not to drain, and no other call has waited longer for it."""
    record = before[f"worker:{held.worker}"]
    assert not is_to_drain(record, now)
    if held.execution is None:
        return  # an offer: it was for this process
    runtime, target, _, project = held.queue.split("|")
    function = target.split(":")[0]
    has_share = _has_share(before, project, function)
    others = {
        name: since
        for name, since in before.get(f"queue:{held.queue}", {}).items()
        if name != holder and not (is_asynchronous(name) and has_share)
    }
    of_project, of_runtime = before.get(f"blocked:project:{project}", {}), before.get(f"blocked:runtime:{runtime}", {})
    blocked = {
        f"function:{function}": {queue: at for queue, at in of_project.items() if f"|{function}:" in queue},
        f"project:{project}": dict(list(of_project.items())[:1]),
        f"runtime:{runtime}": dict(list(of_runtime.items())[:1]),
    }
    for limit in _reached(before, target, project, runtime):
        others |= {queue: at for queue, at in blocked.get(limit, {}).items() if queue != held.queue}
    assert all(since + tolerance_ms >= arrived for since in others.values()), "another call has waited longer"


def the_view_is_right(view: View, seen: Snapshot) -> None:
    """The view of the manager agrees with the records."""
    assert (view.workers, view.draining, view.targets) == (
        len(seen["workers"]), len(seen["draining"]), len(seen["held"]),
    )  # fmt: skip
    for runtime in view.runtimes:
        sets = [seen[f"{name}:{runtime.id}"] for name in ("warm", "starting", "escalated")]
        assert [runtime.warm, runtime.starting, runtime.escalated] == [len(one) for one in sets]
    growing = {f"{one.runtime}|{one.target}|{one.kind}": one for one in view.growing}
    escalated = [queue for runtime in view.runtimes for queue in seen[f"escalated:{runtime.id}"]]
    assert set(growing) == {queue.rpartition("|")[0] for queue in escalated}
    for queue in escalated:
        one = growing[queue.rpartition("|")[0]]
        assert one.waiting == sum(map(int, seen[f"counts:{queue}"].values()))
        assert (one.held, one.arrival) == (seen["held"].get(one.target, 0), min(seen[f"queue:{queue}"].values()))
        assert one.room > 0
    assert [one.id for one in view.idle] == list(seen["idle"])[: len(view.idle)]
    assert view.recalled == list(seen["recalls"])
    for one in (*view.largest, *view.longest_without_growth):
        record = seen[f"worker:{one.worker}"]
        assert (record["state"], record["target"]) == (one.state, one.target)
        assert not {"drain", "kept", "recalled"} & record.keys()
        of_target = [seen[f"worker:{worker}"].get("target") for worker in view.recalled]
        assert (one.held, one.recalled) == (seen["held"][one.target], of_target.count(one.target))


def the_first_to_grow_was_served(before: Snapshot, seen: Snapshot, runtime: str) -> None:
    """When a worker became ready, the first escalated queue that no limit blocks got a worker."""
    most = int(before["policy"]["max_workers"])
    share = most // max(1, len(before["held"])) if len(before["workers"]) >= most else 0
    queues = [
        queue
        for queue in before.get(f"escalated:{runtime}", ())
        if not is_blocked(before, *_of(queue)) and not _waits_for_its_share(before, queue)
    ]
    poor = [queue for queue in queues if share < 2 or before["held"].get(queue.split("|")[1], 0) < share]
    for first in (poor or queues)[:1]:
        counts = [sum(map(int, one.get(f"counts:{first}", {}).values())) for one in (before, seen)]
        assert counts[1] < counts[0], f"{first} was passed over"


def _waits_for_its_share(seen: Snapshot, queue: str) -> bool:
    """Whether only asynchronous executions wait in a queue, which have as many leases as they may."""
    target, project, _ = _of(queue)
    return all(map(is_asynchronous, seen[f"queue:{queue}"])) and _has_share(seen, project, target.split(":")[0])


def the_oldest_call_got_the_worker(before: Snapshot, seen: Snapshot, held: Held) -> None:
    """When a worker was released and no limit was reached, it was offered to the oldest entry of its queue.

    With entries of asynchronous executions this is not checked, because they may have their share.
    """
    entries = before.get(f"queue:{held.queue}", {})
    if entries and not any(map(is_asynchronous, entries)) and not is_blocked(before, *_of(held.queue)):
        record = seen[f"worker:{held.worker}"]
        assert (record["state"], record["accepted"]) == ("leased", "0")
        assert entries[record["holder"]] == min(entries.values())


def _of(queue: str) -> tuple[str, str, str]:
    runtime, target, _, project = queue.split("|")
    return target, project, runtime


def is_to_drain(record: dict[str, str], now: int) -> bool:
    return "drain" in record or int(record.get("recalled", 0)) > now


def is_blocked(seen: Snapshot, target: str, project: str, runtime: str, own: str | None = None) -> bool:
    return bool(_reached(seen, target, project, runtime, own))


def nothing_is_left_over(seen: Snapshot, connection: PipelinedConnection, live: set[str]) -> None:
    """Every key is in the snapshot, or belongs to a process or the pool as a whole."""
    for key in connection.call("KEYS", "qf:{pool}:*"):
        name = key.decode().removeprefix("qf:{pool}:")
        kind, _, rest = name.partition(":")
        # After Redis was emptied, it does not know a process until its next heartbeat.
        is_of_live = kind == "journal" and rest in live
        assert name in seen or kind in OF_PROCESSES or is_of_live, f"{name} is left over"


def _of_unknown_holders(seen: Snapshot, uncommitted: dict[str, str], shown: set[str]) -> bool:
    """Whether the difference is in journals of processes that have not reported since Redis was emptied."""
    known = seen["holders"].keys() | seen["former"].keys()
    missing = uncommitted.keys() - shown
    return shown <= uncommitted.keys() and all(uncommitted[execution] not in known for execution in missing)


def _limit(seen: Snapshot, kind: str, name: str, own: str | None = None) -> int:
    limits = seen["concurrency"]
    if kind != "version":
        return int(limits.get(f"limit {kind}", 10**9))
    own = limits.get(f"own {name}", "") if own is None else own
    return int(own or 10**9)


def _reached(seen: Snapshot, target: str, project: str, runtime: str, own: str | None = None) -> list[str]:
    function, version = target.split(":")[:2]
    counts = seen["concurrency"]
    of = {"version": f"{function}:{version}", "function": function, "project": project, "runtime": runtime}
    return [
        f"{kind}:{name}"
        for kind, name in of.items()
        if int(counts.get(f"{kind} {name}", 0)) + _reserved(seen, kind, name, target) >= _limit(seen, kind, name, own)
    ]


def reservations(seen: Snapshot) -> dict[str, str]:
    """The targets for which a lease of a function, project or runtime is reserved now, by `kind name`."""
    found = {}
    for name, value in seen.get("concurrency", {}).items():
        if name.startswith("reserved "):
            till, _, target = value.partition(" ")
            if seen["now"] < int(till) <= seen["now"] + LONGEST_RESERVATION_MS:
                found[name.removeprefix("reserved ")] = target
    return found


def _reserved(seen: Snapshot, kind: str, name: str, target: str) -> bool:
    """Whether a lease is reserved for another target."""
    return reservations(seen).get(f"{kind} {name}", target) != target
