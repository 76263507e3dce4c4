"""Whether this process is a gevent one, and the native parts that gevent replaces."""

from __future__ import annotations

import _thread
import importlib
import sys
from collections.abc import Callable
from typing import Any


def cooperative() -> bool:
    """Whether gevent has patched this process, so that blocking calls must yield to a hub."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def pause() -> None:
    """`let_others_run` in a process of gevent, and nothing in others; for work that does not wait for anything else."""
    if cooperative():
        from qinling_falcon.turns import let_others_run  # gevent, which other processes need not import

        let_others_run()


def native(module: str, name: str) -> Any:
    """`module.name` as it was before gevent patched it."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey.get_original(module, name) if monkey is not None else getattr(importlib.import_module(module), name)


class NativeEvent:
    """A one-shot event of native threads, also where gevent has patched `threading`."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        allocate: Callable[[], _thread.LockType] = native("_thread", "allocate_lock")
        self._lock = allocate()
        self._lock.acquire()

    def set(self) -> None:
        """Let the one who waits go on; to be called once."""
        self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Whether `set` was called within `timeout` seconds."""
        if self._lock.acquire(timeout=max(0.0, timeout)):
            self._lock.release()
            return True
        return False
