"""The calls of this process that wait for a worker, and the greenlet that tells them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gevent
from gevent.event import AsyncResult

from qinling_falcon.pool import keys
from qinling_falcon.pool.connection import PipelinedConnection
from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.wire import PoolUnavailable

logger = logging.getLogger(__name__)

_BLOCK_S = 5
_BATCH = 100
_RETRY_S = 0.2


@dataclass(frozen=True, slots=True)
class News:
    """What a waiter is told.

    Attributes:
        word: `lease` (accepted, it is the waiter's), `stale`, `late` (its time is over), or `again` (its place
            in the queue is lost: ask once more).
        lease: with `lease`: worker, address, secret, token, cold, needs_load.
    """

    word: str
    lease: tuple[str, ...] = ()


class WaitingRoom:
    """Waiters by name, and the listener on the process's list of grants.

    Args:
        listening: a connection of its own, which blocks.
        scripts: for accepting and declining grants.
        holder: the process.
    """

    def __init__(self, listening: PipelinedConnection, scripts: ScriptRunner, holder: str):
        self._listening = listening
        self._scripts = scripts
        self._grants = keys.grants(holder)
        self._waiters: dict[str, AsyncResult] = {}

    def enter(self, waiter: str) -> AsyncResult:
        """A place where `waiter` gets its `News`, also when they come before it listens."""
        place = self._waiters[waiter] = AsyncResult()
        return place

    def leave(self, waiter: str) -> None:
        """Nobody waits there any more: a grant that comes later is declined."""
        self._waiters.pop(waiter, None)

    def tell_all(self, news: News) -> None:
        """Tell every waiter the same."""
        for waiter in list(self._waiters):
            self._tell(waiter, news)

    def listen(self) -> None:
        """Hand out what arrives, for ever."""
        while True:
            try:
                reply = self._listening.call(
                    "BLMPOP", _BLOCK_S, 1, self._grants, "LEFT", "COUNT", _BATCH, timeout_s=_BLOCK_S + 3
                )
                if reply is not None:
                    self._hand_out(json.loads(message) for message in reply[1])
            except PoolUnavailable:
                gevent.sleep(_RETRY_S)
            except Exception:
                logger.exception("A grant could not be handed out")
                gevent.sleep(_RETRY_S)

    def decline(self, worker: str, token: str) -> None:
        """Give back a lease that was never used. If that fails, the reaper does it."""
        try:
            self._scripts.run("decline", worker, token)
        except PoolUnavailable:
            logger.info("A lease of worker %s could not be given back: Redis is away", worker)

    def _hand_out(self, messages: Iterable[list[Any]]) -> None:
        grants = []
        for waiter, word, *lease in messages:
            if word != "lease":
                self._tell(waiter, News(word))
            elif waiter in self._waiters:
                grants.append((waiter, News(word, tuple(lease))))
            else:
                self.decline(lease[0], lease[3])
        if not grants:
            return
        pairs = [word for _, news in grants for word in (news.lease[0], news.lease[3])]
        try:
            accepted = self._scripts.run("accept", *pairs)
        except PoolUnavailable:
            accepted = [0] * len(grants)
        for (waiter, news), its in zip(grants, accepted, strict=True):
            if not its:
                self._tell(waiter, News("again"))
            elif not self._tell(waiter, news):
                self.decline(news.lease[0], news.lease[3])

    def _tell(self, waiter: str, news: News) -> bool:
        place = self._waiters.pop(waiter, None)
        if place is None:
            return False
        place.set(news)
        return True
