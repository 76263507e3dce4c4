"""Runs heavy or blocking work in native threads, off the gevent hub.

Each kind of work has its own threads, so that one kind never waits for another.
gevent's own thread pool is not used, because libraries need it, for example for DNS.
"""

from __future__ import annotations

import contextlib
import enum
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from gevent.threadpool import ThreadPool

P = ParamSpec("P")
T = TypeVar("T")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
# With this priority a check gets about a tenth of a core while a call uses the same core.
_NICE = 10


class Work(enum.Enum):
    """A kind of work."""

    CHECK = "check"
    """Checks of uploads. Each uses a core, so their threads have a low priority."""
    READ = "read"
    """Reads of packages for calls."""
    WRITE = "write"
    """Writes of uploads, and of packages that are spooled for a download."""


# One set of pools for each hub, because a gevent pool works only in the native thread that made it.
_pools: WeakKeyDictionary[Any, dict[Work, ThreadPool]] = WeakKeyDictionary()


def offload(kind: Work, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread of its kind while other greenlets run. Without gevent, run it in this thread."""
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("threading"):
        return work(*args, **kwargs)
    # An error that ends a task of gevent's pool is printed with its stack, though its caller handles it.
    result, error = _pool(kind).apply(_outcome, (kind, work, args, kwargs))
    if error is not None:
        raise error
    return cast(T, result)


def _pool(kind: Work) -> ThreadPool:
    import gevent
    from gevent.threadpool import ThreadPool

    pools = _pools.setdefault(gevent.get_hub(), {})
    if kind not in pools:
        pools[kind] = ThreadPool(CORES)
    return pools[kind]


def _outcome(kind: Work, work: Callable[..., T], args: Any, kwargs: Any) -> tuple[T | None, BaseException | None]:
    try:
        if kind is Work.CHECK:
            _give_way()
        return work(*args, **kwargs), None
    except BaseException as error:
        return None, error


def _give_way() -> None:
    """Lower the priority of this thread. On Linux, id 0 means the calling thread, not the process."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
