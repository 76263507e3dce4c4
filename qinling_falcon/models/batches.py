"""One batch of writes: many callers' changes in one transaction, each with a fate of its own."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from qinling_falcon.errors import Unavailable
from qinling_falcon.models.engines.base import Engine, Fate

_BUSY_PAUSE_S = 0.0002
_TRANSIENT_PAUSE_S = 0.005
_LOST_PAUSE_S = 0.1

MOST_TEXT = 4 * 1024 * 1024
"""A statement with more characters than this gets no further rows."""

Group = Callable[[list[Any]], Sequence[Any]]


class Waiter(Protocol):
    """What a caller sleeps on."""

    def set(self) -> None:
        """Wake the caller."""

    def wait(self, timeout: float) -> bool:
        """Sleep until woken, at most `timeout` seconds."""


@dataclass(slots=True, eq=False)
class Write:
    """One caller's change, on its way.

    Attributes:
        payload: what to do, a function without arguments; or, with `group`, what to do it with.
        group: writes all payloads of a batch that have the same `group` at once, and answers in their order.
        deadline: monotonic time after which it isn't begun any more.
        in_halves: while one half of such writes is committed, the callers of the other half prepare their next ones.
            So `HubLane` lets half a batch of them follow a commit at once. For callers who do little else between two
            writes; others would only get more commits, each with fewer writes.
        size: how many characters its texts have. Large writes are committed a few at a time.
        ticket: one token. If the writer takes it first, the write begins. If the caller does, the write is given up.
    """

    payload: Any
    group: Group | None
    deadline: float
    waiter: Waiter
    in_halves: bool = False
    size: int = 0
    ticket: list[None] = field(default_factory=lambda: [None])
    result: Any = None
    error: BaseException | None = None
    settled: bool = False

    def take(self) -> bool:
        """Whether the caller of this method is the first to take the ticket."""
        try:
            self.ticket.pop()
        except IndexError:
            return False
        return True

    def settle(self, result: Any = None, error: BaseException | None = None) -> None:
        """Decide what the caller gets."""
        self.result, self.error, self.settled = result, error, True


class _Busy(Exception):
    """Another process is writing; nothing was begun."""


class _Lost(Exception):
    """The connection went before the commit: nothing was written."""


class _Unknown(Exception):
    """The connection went during the commit."""


class Batch:
    """Carries writes out on the connection of the current thread (or greenlet).

    Args:
        engine: the database.
        pause: sleeps so many seconds.
    """

    def __init__(self, engine: Engine, pause: Callable[[float], None]) -> None:
        self._engine = engine
        self._pause = pause

    def run(self, writes: Sequence[Write]) -> None:
        """Settle every write: committed, failed by itself, or refused at its deadline."""
        todo = deque(_by_size(writes))
        lost_before = False
        while todo:
            together = todo[0] = _in_time(todo[0])
            if not together:
                todo.popleft()
                continue
            try:
                again = self._transaction(together)
            except _Busy:
                self._pause(_BUSY_PAUSE_S)
                continue
            except _Lost:
                self._engine.close_writer()
                # An idle connection may have been cut long ago: the first retry is at once.
                self._pause(_LOST_PAUSE_S if lost_before else 0)
                lost_before = True
                continue
            except _Unknown as error:
                self._engine.close_writer()
                unknown = Unavailable("The database went away during a commit: whether the change was made is unknown.")
                unknown.__cause__ = error.__cause__
                for write in together:
                    write.settle(error=unknown)
                again = []
            todo.popleft()
            lost_before = False
            todo.extend([write] for write in again)
            if len(together) == 1 and again:
                self._pause(_TRANSIENT_PAUSE_S)

    def _transaction(self, writes: list[Write]) -> list[Write]:
        """Write all in one transaction; those that are left must be tried again, each alone."""
        units = _units(writes)
        alone = len(units) == 1
        if alone and units[0][0] is not None and self._engine.complete_statements:
            return self._group(units[0][0], writes)
        fates: list[tuple[Write, Any, BaseException | None]] = []
        again: list[Write] = []
        self._begin()
        self._engine.push_transaction(self)
        try:
            for group, members in units:
                # The units before it may have waited long for locks.
                if members[0].deadline <= time.monotonic():
                    again.extend(members)
                    continue
                error = self._unit(group, members, fates, alone=alone)
                if error is None:
                    continue
                if self._engine.fate(error) is Fate.TRANSIENT or len(members) > 1:
                    again.extend(members)
                else:
                    fates.append((members[0], None, error))
            if alone and not (fates and fates[0][2] is None):
                self._abandon()
            else:
                self._commit()
        except BaseException:
            self._abandon()
            raise
        finally:
            # A dropped connection has no transaction left.
            if self._engine.transaction_depth():
                self._engine.pop_transaction()
        for write, result, error in fates:
            write.settle(result, error)
        return again

    def _group(self, group: Group, writes: list[Write]) -> list[Write]:
        """Write a group without BEGIN and COMMIT: the thread waits for the interpreter's lock once, not four times."""
        try:
            self._open()
            results = group([write.payload for write in writes])
        except Exception as error:
            match self._engine.fate(error):
                case Fate.BUSY:
                    raise _Busy from error
                case Fate.LOST:
                    raise _Lost from error
            if len(writes) > 1:
                return writes
            writes[0].settle(error=error)
            return []
        for write, result in zip(writes, results, strict=True):
            write.settle(result)
        return []

    def _open(self) -> None:
        if not self._engine.writing():
            self._engine.close_writer()
            self._engine.open_writer()

    def _begin(self) -> None:
        try:
            self._open()
            self._engine.execute_sql(self._engine.begin_sql)
        except Exception as error:
            raise (_Busy if self._engine.fate(error) is Fate.BUSY else _Lost) from error

    def _unit(
        self,
        group: Group | None,
        members: list[Write],
        fates: list[tuple[Write, Any, BaseException | None]],
        *,
        alone: bool,
    ) -> BaseException | None:
        """Run one write, or one group; alone in its transaction it needs no savepoint."""
        payloads = [write.payload for write in members]
        try:
            with contextlib.nullcontext() if alone else self._engine.savepoint():
                results = group(payloads) if group else [payloads[0]()]
        except Exception as error:
            if self._engine.fate(error) in (Fate.LOST, Fate.BUSY):
                raise _Lost from error
            return error
        fates.extend((write, result, None) for write, result in zip(members, results, strict=True))
        return None

    def _commit(self) -> None:
        try:
            self._engine.execute_sql("COMMIT")
        except Exception as error:
            raise (_Unknown if self._engine.fate(error) is Fate.LOST else _Lost) from error

    def _abandon(self) -> None:
        try:
            self._engine.execute_sql("ROLLBACK")
        except Exception:
            self._engine.close_writer()


def _units(writes: list[Write]) -> list[tuple[Group | None, list[Write]]]:
    units: list[tuple[Group | None, list[Write]]] = []
    groups: dict[Group, list[Write]] = {}
    for write in writes:
        if write.group is None:
            units.append((None, [write]))
        elif write.group in groups:
            groups[write.group].append(write)
        else:
            groups[write.group] = [write]
            units.append((write.group, groups[write.group]))
    return units


def _by_size(writes: Sequence[Write]) -> list[list[Write]]:
    """The writes in the order of their coming, in lists that are not too large for one transaction."""
    lists: list[list[Write]] = []
    size = MOST_TEXT + 1
    for write in writes:
        if size > MOST_TEXT:
            size = 0
            lists.append([])
        lists[-1].append(write)
        size += write.size
    return lists


def _in_time(writes: list[Write]) -> list[Write]:
    now = time.monotonic()
    late = [write for write in writes if write.deadline <= now]
    for write in late:
        write.settle(error=Unavailable("The database did not answer in time: nothing was changed.", retry_after_s=1))
    return [write for write in writes if write.deadline > now]
