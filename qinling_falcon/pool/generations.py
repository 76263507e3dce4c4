"""Generations: by them a process knows that what it has cached is still so."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator, Sequence

import gevent

from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.wire import PoolUnavailable

_MARK = "changing "

_RETRY_S = 0.2


class Generations:
    """Each what (`function:<id>`, …) has a random generation, which a change replaces.

    Args:
        scripts: where the generations are kept.
    """

    def __init__(self, scripts: ScriptRunner):
        self._scripts = scripts

    def generations(self, whats: Sequence[str]) -> dict[str, str]:
        """The generation of each what; to be read before the database is.

        What is resolved under these may be run as long as they stand, and cached if they are `lasting`.
        """
        if not whats:
            return {}
        reply = self._scripts.run("generations", *(word for what in whats for word in (what, secrets.token_hex(8))))
        return {what: value.decode() for what, value in zip(whats, reply, strict=True)}

    @contextlib.contextmanager
    def changing(self, what: str) -> Iterator[None]:
        """Surrounds the commit of a change to `what`: nobody caches it meanwhile, everybody resolves it after.

        Raises:
            PoolUnavailable: Redis is away; the body was not run.
        """
        owner = secrets.token_hex(8)
        self._scripts.run("change", what, owner, "")
        try:
            yield
        finally:
            try:
                self._end_change(what, owner)
            except PoolUnavailable:  # the change stands; without Redis no call gets a worker for the old one either
                gevent.spawn(self._end_change_later, what, owner)

    def _end_change(self, what: str, owner: str) -> None:
        self._scripts.run("change", what, owner, secrets.token_hex(8))

    def _end_change_later(self, what: str, owner: str) -> None:
        while True:
            gevent.sleep(_RETRY_S)
            with contextlib.suppress(PoolUnavailable):
                self._end_change(what, owner)
                return


def lasting(generation: str) -> bool:
    """Whether what was read under a generation may be cached: no change was under way."""
    return not generation.startswith(_MARK)
