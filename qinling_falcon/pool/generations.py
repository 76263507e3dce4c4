"""Generations: random values by which a process knows whether its cached targets are still current."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Collection, Iterator, Sequence

import gevent

from qinling_falcon.pool.runner import ScriptRunner
from qinling_falcon.pool.wire import PoolUnavailable

_MARK = "changing "

_RETRY_S = 0.2


class Generations:
    """Reads and changes the generations in Redis.

    Each cache key (`function:<id>`, …) has a generation. A change of the function replaces it.

    Args:
        scripts: runs scripts.
    """

    def __init__(self, scripts: ScriptRunner):
        self._scripts = scripts

    def generations(self, cache_keys: Sequence[str]) -> dict[str, str]:
        """The present generation of each cache key. Call this before you read the database.

        A target that is then resolved may run as long as these generations are current. It may be cached if `may_cache`
        is true for each of them.
        """
        if not cache_keys:
            return {}
        pairs = (part for cache_key in cache_keys for part in (cache_key, secrets.token_hex(8)))
        reply = self._scripts.run("generations", *pairs)
        return {cache_key: value.decode() for cache_key, value in zip(cache_keys, reply, strict=True)}

    def is_current(self, generations: Collection[tuple[str, str]]) -> bool:
        """Whether all these pairs of (cache key, generation) are current."""
        return self.generations([cache_key for cache_key, _ in generations]) == dict(generations)

    @contextlib.contextmanager
    def changing(self, cache_key: str) -> Iterator[None]:
        """Surround the commit of a change. No process caches the key meanwhile, and all resolve it again afterwards.

        Raises:
            PoolUnavailable: Redis is away; the body was not run.
        """
        owner = secrets.token_hex(8)
        self._scripts.run("change", cache_key, owner, "")
        try:
            yield
        finally:
            try:
                self._end_change(cache_key, owner)
            except PoolUnavailable:  # the change is committed; without Redis no call gets a worker with the old code
                gevent.spawn(self._end_change_later, cache_key, owner)

    def _end_change(self, cache_key: str, owner: str) -> None:
        self._scripts.run("change", cache_key, owner, secrets.token_hex(8))

    def _end_change_later(self, cache_key: str, owner: str) -> None:
        while True:
            gevent.sleep(_RETRY_S)
            with contextlib.suppress(PoolUnavailable):
                self._end_change(cache_key, owner)
                return


def may_cache(generation: str) -> bool:
    """Whether a value that was read under this generation may be cached, because no change was in progress."""
    return not generation.startswith(_MARK)
