"""Resolves the host names of callbacks. Slow names of one project delay neither other projects nor the process.

A lookup occupies a native thread until the name servers have answered or were silent for long enough, which takes up to
half a minute, and nothing can end it before that. All other names of the process are resolved in gevent's ten threads,
so lookups of callbacks have threads of their own. There are three limits:

1. A project has at most `_MOST_OF_PROJECT` threads, also for lookups whose callers have given up.
2. A caller waits up to `_TIMEOUT_S` for a thread and the addresses.
3. Requests of one project to one host at the same time share a lookup.
"""

from __future__ import annotations

import copy
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import gevent
from gevent.event import AsyncResult, Event
from gevent.threadpool import ThreadPool

from qinling_falcon.models.cooperation import native
from qinling_falcon.webhooks.urls import literal_address

_THREADS = 32
_MOST_OF_PROJECT = 4
_TIMEOUT_S = 5.0

_Key = tuple[str, str, int]


def resolve_name(host: str, port: int) -> list[str]:
    """The IP addresses of a host name, without duplicates; blocks this thread.

    Raises:
        OSError: the name can't be resolved.
        UnicodeError: IDNA refuses the name.
    """
    found = native("socket", "getaddrinfo")(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(entry[4][0] for entry in found))


class Lookups:
    """The lookups of a process. One object serves many greenlets.

    Args:
        look_up: resolves a name and blocks its native thread.
        timeout_s: how long a caller waits.
    """

    def __init__(self, look_up: Callable[[str, int], Sequence[str]] = resolve_name, timeout_s: float = _TIMEOUT_S):
        self._look_up = look_up
        self._timeout_s = timeout_s
        self._running: dict[_Key, AsyncResult] = {}
        self._of_project: Counter[str] = Counter()
        self._changed = Event()  # a lookup has ended; each event is set once

    def resolve(self, host: str, port: int, project_id: str) -> Sequence[str]:
        """The IP addresses of a host name; of an IP address, this address.

        Args:
            host: the name.
            port: the port.
            project_id: the project that has chosen the name.

        Raises:
            OSError: the name can't be resolved, or not in time.
            UnicodeError: IDNA refuses the name.
        """
        literal = literal_address(host)
        if literal is not None:
            return [literal]
        with gevent.Timeout(self._timeout_s, TimeoutError(f"its name was not resolved within {self._timeout_s:g} s")):
            found = self._lookup((project_id, host, port)).get()
        if isinstance(found, Exception):
            raise copy.copy(found)  # an error collects tracebacks, and each caller raises one
        addresses: Sequence[str] = found
        return addresses

    def _lookup(self, key: _Key) -> AsyncResult:
        """The lookup of this host that runs, or a new one as soon as there is a thread for it."""
        while key not in self._running:
            if self._of_project[key[0]] < _MOST_OF_PROJECT and len(self._running) < _THREADS:
                self._start(key)
            else:
                self._changed.wait()
        return self._running[key]

    def _start(self, key: _Key) -> None:
        project_id, host, port = key
        # There is a free thread, so this does not wait. It raises if the process can't start a thread.
        lookup = self._threads.spawn(_outcome, self._look_up, host, port)
        self._running[key] = lookup
        self._of_project[project_id] += 1
        lookup.rawlink(lambda _: self._end(key))

    def _end(self, key: _Key) -> None:
        """Runs in the hub."""
        del self._running[key]
        self._of_project[key[0]] -= 1
        if not self._of_project[key[0]]:
            del self._of_project[key[0]]
        changed, self._changed = self._changed, Event()
        changed.set()

    @cached_property
    def _threads(self) -> Any:
        return ThreadPool(_THREADS)


def _outcome(look_up: Callable[[str, int], Sequence[str]], host: str, port: int) -> Sequence[str] | Exception:
    """What a lookup has returned or raised. An exception that left the thread would be printed."""
    try:
        return look_up(host, port)
    except Exception as error:
        return error
