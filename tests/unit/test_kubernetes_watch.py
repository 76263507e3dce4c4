"""The copy of a cluster's objects that one list and a watch keep."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
from gevent.event import Event

from qinling_falcon.orchestrators.kubernetes.watch import Watch
from tests.pool.side import wait_until


class Api:
    """An API server that lists nothing, and tells of events when a test wants."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.more = Event()

    def get(self, path: str, query: Any, *, urgent: bool) -> Any:
        return {"items": [], "metadata": {"resourceVersion": "1"}}

    def watch(self, path: str, query: Any, longest_s: float) -> Iterator[Any]:
        while True:
            self.more.wait()
            self.more.clear()
            yield from self.events


def pod(uid: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": "n", "uid": uid, "resourceVersion": str(version)}}


def test_the_end_of_an_earlier_object_of_the_same_name_changes_nothing() -> None:
    """The answer to the creation of the second one may come before the watch tells of the end of the first one."""
    api = Api()
    watch: Watch[str] = Watch(api, "/pods", "", lambda given: given["metadata"]["uid"], lambda _b, _a: None)  # type: ignore[arg-type]
    watch.start()
    assert watch.wait(5)
    watch.put(pod("second", 9))
    bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "8"}}}
    last = {"type": "ADDED", "object": {"metadata": {"name": "last", "uid": "last", "resourceVersion": "10"}}}
    api.events = [bookmark, {"type": "DELETED", "object": pod("first", 8)}, last]

    api.more.set()

    wait_until(lambda: "last" in watch.objects)
    assert watch.objects["n"] == "second"
    api.events = [{"type": "DELETED", "object": pod("second", 11)}]
    api.more.set()
    wait_until(lambda: "n" not in watch.objects)
    watch.stop()
    gevent.sleep(0)
