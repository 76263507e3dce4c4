"""Keeps a copy of the objects of one kind: one list, then a watch of the changes.

The list is the truth, and a watch only makes it current sooner. So any error of a watch leads to a new list, also
status 410, by which the server says that the version to begin at is too old. A list is also read every few minutes, in
case that a watch has missed a change.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import gevent
from gevent.event import Event

from qinling_falcon.orchestrators.kubernetes.api import ApiAway, ApiError, KubernetesApi

logger = logging.getLogger(__name__)

T = TypeVar("T")

_PAGE = 500
_WATCH_S = 60.0
_LIST_AGAIN_S = 300.0
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0


class Watch(Generic[T]):
    """A copy of the objects of one kind in one namespace.

    Args:
        api: the API server.
        path: of the list.
        selector: the labels of the objects.
        read: parses the JSON of an object.
        changed: is called with the object before and after each change. None: there is none.

    Attributes:
        objects: the parsed objects, by their names.
        trouble: the last error of the API server since the last list; None: there was none.
    """

    def __init__(
        self,
        api: KubernetesApi,
        path: str,
        selector: str,
        read: Callable[[Mapping[str, Any]], T],
        changed: Callable[[T | None, T | None], None],
    ):
        self.objects: dict[str, T] = {}
        self.trouble: str | None = None
        self._api = api
        self._path = path
        self._selector = selector
        self._read = read
        self._changed = changed
        # By name, the version of each object, and when an answer to a request of this process has brought it.
        self._versions: dict[str, int] = {}
        self._answered_at: dict[str, float] = {}
        self._was_listed = Event()
        self._greenlet: gevent.Greenlet | None = None

    @property
    def is_listed(self) -> bool:
        """Whether the objects were listed at least once."""
        return bool(self._was_listed.is_set())

    def start(self) -> None:
        """Begin to list and watch, in the background."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Stop listing and watching."""
        if self._greenlet is not None:
            self._greenlet.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait until the objects were listed once. Returns whether they were."""
        return bool(self._was_listed.wait(timeout_s))

    def put(self, given: Mapping[str, Any]) -> T:
        """Keep an object from the answer to a request, which is newer than what the watch tells at this moment.

        Returns:
            The parsed object.
        """
        self._answered_at[given["metadata"]["name"]] = time.monotonic()
        return self._put(given)

    def forget(self, name: str) -> None:
        """Drop an object that has changed. Its next change, or the next list, brings it back."""
        self.objects.pop(name, None)

    def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            since = time.monotonic()
            try:
                self._list_and_watch()
            except ApiAway as error:
                self.trouble = str(error)
                logger.info("a list or watch was interrupted", extra={"path": self._path, "reason": self.trouble})
            except ApiError as error:
                self.trouble = str(error)
                logger.warning("a list or watch was refused", extra={"path": self._path, "reason": self.trouble})
            except Exception:
                logger.exception("a list or watch failed", extra={"path": self._path})
            if time.monotonic() >= since + _LONGEST_PAUSE_S:
                pause_s = _FIRST_PAUSE_S
            gevent.sleep(pause_s * random.uniform(0.5, 1.0))  # so that several managers do not come back at once
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    def _list_and_watch(self) -> None:
        """List, then watch until it is time for the next list, or the server says that a list is needed."""
        version = self._list()
        self.trouble = None
        self._was_listed.set()
        list_at = time.monotonic() + _LIST_AGAIN_S
        while time.monotonic() < list_at:
            query = {
                "labelSelector": self._selector,
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
            }
            for event in self._api.watch(self._path, query, _WATCH_S):
                given = event["object"]
                if event["type"] == "ERROR":
                    if given.get("code") != 410:
                        raise ApiAway(f"the watch ended: {given.get('message')}")
                    return
                version = given["metadata"]["resourceVersion"]
                # An old event may also tell of the end of an earlier object with this name.
                if event["type"] == "BOOKMARK" or self._is_old(given):
                    continue
                if event["type"] == "DELETED":
                    self._remove(given["metadata"]["name"])
                else:
                    self._put(given)

    def _list(self) -> str:
        """Read all objects. Returns the version of the list."""
        since = time.monotonic()
        items, page = [], ""
        while True:
            query = {"labelSelector": self._selector, "limit": str(_PAGE), **({"continue": page} if page else {})}
            answer = self._api.get(self._path, query, urgent=True)
            items += answer["items"]
            page = answer["metadata"].get("continue", "")
            if not page:
                break
        # The list may be older than an answer that came meanwhile.
        newer = {name for name, at in self._answered_at.items() if at >= since}
        self._answered_at.clear()
        for name in self.objects.keys() - {item["metadata"]["name"] for item in items} - newer:
            self._remove(name)
        for item in items:
            if item["metadata"]["name"] not in newer:
                self._put(item)
        version: str = answer["metadata"]["resourceVersion"]
        return version

    def _is_old(self, given: Mapping[str, Any]) -> bool:
        """Whether a change is older than what is kept, because an answer was quicker than the watch."""
        metadata = given["metadata"]
        return int(metadata["resourceVersion"]) < self._versions.get(metadata["name"], 0)

    def _put(self, given: Mapping[str, Any]) -> T:
        metadata = given["metadata"]
        before, after = self.objects.get(metadata["name"]), self._read(given)
        self._versions[metadata["name"]] = int(metadata["resourceVersion"])
        self.objects[metadata["name"]] = after
        self._changed(before, after)
        return after

    def _remove(self, name: str) -> None:
        self._versions.pop(name, None)
        before = self.objects.pop(name, None)
        if before is not None:
            self._changed(before, None)
