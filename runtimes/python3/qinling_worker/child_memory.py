"""Compares what the child's processes use with the function's `memory_size`.

Their use is read from their control group, and where there is none, from /proc for each process. The memory of a child
that has not run user code yet (the interpreter, the modules that the template has imported) does not count.
"""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable

from . import memory
from .config import Config
from .memory_group import MemoryGroup


class ChildMemory:
    """Watches the memory of one child after another.

    Args:
        config: has the descriptors of the control group, if there is one.
        template: the pid of the template.
    """

    def __init__(self, config: Config, template: int) -> None:
        self._template = self._root = template
        self._group: MemoryGroup | None = None
        if "usage" in config.memory_fds:
            self._group = MemoryGroup(config.memory_fds, config.child.scratch_dirs, config.scratch_size)
        self._limit = 0
        self._status: int | None = None
        self._bare: int | None = None
        self._mapped = 0
        self._has_failed = False  # a check of the memory has failed at least once

    def set_limit(self, memory_size: int) -> None:
        """Set the limit, once the function is known."""
        self._limit = memory_size
        if self._group is not None:
            self._group.set_limit(memory_size)

    def watch(self, pid: int) -> None:
        """Watch the child with this pid, and no longer the one before it."""
        self._close()
        self._mapped = 0
        with contextlib.suppress(OSError):
            self._status = os.open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)

    def note_loaded(self) -> None:
        """Note the files that the child has mapped, once it has imported the function.

        They are a part of its peak, but do not count. The kernel may drop them when memory is short.
        """
        if self._group is not None:
            self._most_mapped()

    def count_processes_below(self, pid: int | None) -> None:
        """Count the processes below the loaded process `pid`, but not that process, because calls share its pages."""
        if pid is not None:
            self._root = pid

    def forget(self) -> None:
        """Stop watching the child, which has ended."""
        self._close()
        self._bare = None
        self._root = self._template

    @property
    def is_bounded(self) -> bool:
        """Whether the kernel ends processes that take far more than the limit."""
        return self._group is not None

    @property
    def has_bare_size(self) -> bool:
        """Whether `set_bare` was called for this child."""
        return self._bare is not None

    def set_bare(self, resident: int) -> None:
        """Remember what the child uses before user code runs in it.

        Args:
            resident: its resident bytes.
        """
        if self._group is None:
            self._bare = resident
        else:
            self._bare = memory.anonymous(self._template)  # the child has copies of the template's pages
            self._group.set_bare()

    def is_exceeded(self) -> bool:
        """Whether the child's processes use more than the limit now."""
        return self._ask(self._is_exceeded)

    def was_exceeded(self) -> bool:
        """Whether the child itself has ever used more, or its processes together do now. Cheaper than `is_exceeded`.

        Without a control group, only the child itself is looked at.
        """
        return self._ask(self._was_exceeded)

    def _ask(self, question: Callable[[], bool]) -> bool:
        try:
            return question()
        except Exception:  # a function may have caused this, and must not end its worker
            if not self._has_failed:
                self._has_failed = True
                traceback.print_exc()
            return False

    def _is_exceeded(self) -> bool:
        if self._group is None:
            return memory.used_below(self._root, self._bare or 0, self._limit) > self._limit
        self._most_mapped()
        return self._group.used(self._limit) > self._limit

    def _was_exceeded(self) -> bool:
        peak = 0 if self._status is None else memory.peak(self._status) - (self._bare or 0)
        if self._group is None:
            return peak > self._limit
        if peak > self._limit and peak - self._most_mapped() > self._limit:
            # The peak may include files that were unmapped or dropped since, which do not count.
            return self._group.may_have_used(self._limit)
        return self._group.used(self._limit) > self._limit

    def _most_mapped(self) -> int:
        """The most bytes of files that the child was seen to have mapped."""
        if self._status is not None:
            self._mapped = max(self._mapped, memory.mapped(self._status))
        return self._mapped

    def _close(self) -> None:
        if self._status is not None:
            os.close(self._status)
            self._status = None
