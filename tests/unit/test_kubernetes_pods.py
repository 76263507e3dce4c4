"""What the pool manager reads of pods, and the events that it makes of their changes."""

from __future__ import annotations

from typing import Any

from qinling_falcon.orchestrators.base import Happening
from qinling_falcon.orchestrators.kubernetes import names
from qinling_falcon.orchestrators.kubernetes.pod_events import PodEvents
from qinling_falcon.orchestrators.kubernetes.pods import Pod, read_pod

CREATED = "2024-01-01T00:00:00Z"


def pod(state: str, uid: str = "u", **given: Any) -> Pod:
    """A pod of the worker `w`; a spare one has no worker."""
    labels = {names.STATE: state} | ({} if state == names.SPARE else {names.WORKER: "w"})
    metadata = {"name": "p", "uid": uid, "creationTimestamp": CREATED, "labels": labels}
    return read_pod({"metadata": metadata, **given})


def test_the_deadline_of_a_pod_counts_from_when_its_node_has_known_it() -> None:
    spec = {"activeDeadlineSeconds": 100}

    assert pod(names.TAKEN).ends_by is None
    unscheduled, started = (pod(names.SINGLE_USE, spec=spec, status=status) for status in (
        {}, {"startTime": "2024-01-01T00:00:30Z"},
    ))  # fmt: skip
    assert unscheduled.ends_by is not None and started.ends_by is not None
    assert unscheduled.ends_by - unscheduled.created == 100
    assert started.ends_by - started.created == 130


def test_a_worker_whose_pod_is_spare_again_has_failed_and_its_pod_is_not_taken_again() -> None:
    """The database of the cluster was restored from a copy. The worker may still run a call."""
    events = PodEvents()

    events.note_change(pod(names.TAKEN), pod(names.SPARE))

    [event] = events.take()
    assert (event.worker_id, event.happening) == ("w", Happening.FAILED)
    assert events.was_returned(pod(names.SPARE))
    assert [found.uid for found in events.find_returned("w")] == ["u"]
    assert events.find_returned("another") == []

    events.note_change(pod(names.SPARE), None)

    assert events.find_returned() == []
