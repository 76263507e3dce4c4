"""Keeps functions in Swift current: before a call, the process checks whether the function's object has changed.

The function's package is a copy of the object. While Swift or Keystone is away, the check fails and calls run the copy.
Calls are refused only if the object is gone, is not a valid package, or may not be read any more.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass

from qinling_falcon.bounded import BoundedCache
from qinling_falcon.errors import BadGateway, BadRequest, Conflict, NotFound, QuotaExceeded, TooLarge, Unavailable
from qinling_falcon.flights import Flights
from qinling_falcon.invocation.sessions import Sessions, TrustGone
from qinling_falcon.invocation.targets import SwiftSource, Target
from qinling_falcon.models import function as functions
from qinling_falcon.models.scope import Context
from qinling_falcon.pool.pool import Pool
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing, TokenRefused
from qinling_falcon.storage.packages import PackageStore, StoredPackage

log = logging.getLogger(__name__)

# A call waits this long to learn whether the object has changed. If it has, the call waits for the download.
_PATIENCE_S = 2.0
# After Swift or Keystone was away, no call of the function waits for them for this long.
_AWAY_S = 5.0
# A refused object is checked again after this time, because it may be valid again.
_REFUSED_S = 1.0
_WARNED_EVERY_S = 60.0
_REMEMBERED = 10_000


@dataclass(slots=True)
class _Check:
    """The result of a check of a function's object.

    Attributes:
        source_and_trust: the object, the etag of the copy, and the trust that the function had. The result holds only
            for these.
        until: when the result expires, by `time.monotonic()`.
        refusal: why calls are refused; None: they are not.
        bad_etag: the etag of an object that is no valid package, so that it is not fetched again.
        replaced: whether the function has a new copy.
    """

    source_and_trust: tuple[SwiftSource | None, str | None]
    until: float
    refusal: str | None = None
    bad_etag: str | None = None
    replaced: bool = False


_Key = tuple[str, SwiftSource | None, str | None]
"""A function, and the object, etag and trust that are checked."""


class SwiftSources:
    """Refreshes the copies of functions in Swift. Concurrent calls of a function share one check."""

    def __init__(self, sessions: Sessions, packages: PackageStore, pool: Pool, settings: Settings):
        from qinling_falcon.storage.swift import Swift  # imported here, because noauth does not need it

        self._sessions = sessions
        self._packages = packages
        self._pool = pool
        self._limit = settings.max_package_size
        self._every_s = settings.swift_check_s
        self._longest_s = 2 * (settings.swift_timeout_s + settings.keystone_timeout_s)
        self._swift = Swift(settings)
        self._checks: BoundedCache[str, _Check] = BoundedCache(_REMEMBERED)
        self._flights: Flights[_Key, _Check] = Flights()
        self._fetching: set[_Key] = set()
        self._warned = 0.0

    def is_current(self, target: Target) -> bool:
        """Whether the target may run as it is. False: its function has a newer copy, so it must be resolved again.

        Raises:
            Conflict: the object is gone, is not a valid package, or may not be read any more.
        """
        source = target.swift
        assert source is not None
        check = self._checks.get(target.function_id)
        if check is None or check.source_and_trust != _source_and_trust(target) or check.until <= time.monotonic():
            check = self._wait(target, source)
        if check.refusal is None:
            return not check.replaced
        # The refusal may be for an older target, with another object or trust.
        if not self._pool.is_current(target.generations):
            return False
        raise Conflict(f"Function {target.function_id} can't run: {check.refusal}")

    def _wait(self, target: Target, source: SwiftSource) -> _Check:
        """Check the object, or wait for the check of another call, for a bounded time."""
        key = (target.function_id, *_source_and_trust(target))
        flight = self._flights.share(key, lambda: self._check_and_keep(target, source))
        if flight.wait(_PATIENCE_S) or (key in self._fetching and flight.wait(self._longest_s)):
            return flight.result()
        return self._keep(target.function_id, self._away(target, "no answer in time"))

    def _check_and_keep(self, target: Target, source: SwiftSource) -> _Check:
        """Check the object and keep the result. If the check fails, calls run the copy."""
        name = target.function_id
        try:
            check = self._check(target, source)
        except (Unavailable, BadGateway) as error:
            check = self._away(target, error.message)
        except Exception as error:
            log.exception("function %s: its object in Swift could not be checked", name)
            check = self._away(target, type(error).__name__)
        finally:
            self._fetching.discard((name, *_source_and_trust(target)))
        return self._keep(name, check)

    def _check(self, target: Target, source: SwiftSource) -> _Check:
        where = f"its object {source.container}/{source.object} in Swift"
        if target.trust_id is None:
            return _refused(target, f"it has no trust by which {where} could be read.")
        try:
            account = self._account(target.trust_id)
            try:
                etag = self._swift.etag(account, source.container, source.object)
            except TokenRefused:
                self._sessions.forget(target.trust_id)
                account = self._account(target.trust_id)
                etag = self._swift.etag(account, source.container, source.object)
            if etag == source.etag:
                return _Check(_source_and_trust(target), time.monotonic() + self._every_s)
            before = self._checks.get(target.function_id)
            if before is not None and before.bad_etag == etag and before.source_and_trust == _source_and_trust(target):
                assert before.refusal is not None
                return _refused(target, before.refusal, etag)
            self._fetching.add((target.function_id, *_source_and_trust(target)))
            try:
                package, etag = self._fetch(account, source, target.project_id)
                if etag == source.etag:  # it was changed back meanwhile
                    self._packages.delete(package.key)
                    return _Check(_source_and_trust(target), time.monotonic() + self._every_s)
            except (BadRequest, TooLarge) as error:
                return _refused(target, f"{where} was changed, and can't be its package: {error.message}", etag)
        except ObjectMissing:
            return _refused(target, f"{where} is gone.")
        except ObjectForbidden:
            return _refused(target, f"{where} may not be read any more by the user whose function it is.")
        except TrustGone:
            return _refused(target, f"the trust by which {where} was read is gone, or the rights of its user.")
        return self._replace(target, source, package, etag)

    def _account(self, trust_id: str) -> Account:
        access = self._sessions.access(trust_id)
        return Account(access.object_store, access.token)

    def _fetch(self, account: Account, source: SwiftSource, project_id: str) -> tuple[StoredPackage, str]:
        """Store a copy of the current object. Returns the copy and its etag.

        A crash leaves a package that no row names.
        """
        found = self._swift.open(account, source.container, source.object, self._limit)
        with contextlib.closing(found):
            return self._packages.save(found, self._limit, project_id=project_id), found.etag

    def _replace(self, target: Target, source: SwiftSource, package: StoredPackage, etag: str) -> _Check:
        """Write the new copy into the function's row, unless another process already has.

        A crash before the write leaves the new copy as a package that no row names. A crash after it leaves the old
        copy. `PackageStore.sweep` deletes both.
        """
        name = target.function_id
        replaced = _Check(_source_and_trust(target), time.monotonic() + _AWAY_S, replaced=True)
        where = {"container": source.container, "object": source.object}
        try:
            with self._pool.changing(f"function:{name}"):
                unused = functions.refresh(
                    Context(target.project_id),
                    name,
                    where,
                    source.etag,
                    md5sum=package.md5sum,
                    package_key=package.key,
                    package_size=package.size,
                    source_etag=etag,
                )
                # The committed change already keeps calls from the old workers. Draining only ends them sooner.
                with contextlib.suppress(Unavailable):
                    self._pool.drain(name, 0)
        except NotFound:  # the caller gets this error when it resolves the target again
            self._packages.delete(package.key)
            return replaced
        except QuotaExceeded as error:
            self._packages.delete(package.key)
            refusal = f"its object {source.container}/{source.object} in Swift was changed. {error.message}"
            # Not cached as a bad object, because the quota may be raised or packages may be deleted.
            return _Check(_source_and_trust(target), time.monotonic() + _AWAY_S, refusal)
        for key in unused:
            self._packages.delete(key)
        log.info("function %s: its object in Swift has changed, and was fetched", name)
        return replaced

    def _away(self, target: Target, reason: str) -> _Check:
        now = time.monotonic()
        if now - self._warned > _WARNED_EVERY_S:
            self._warned = now
            log.warning("functions in Swift run from their copies; of %s: %s", target.function_id, reason)
        return _Check(_source_and_trust(target), now + max(self._every_s, _AWAY_S))

    def _keep(self, name: str, check: _Check) -> _Check:
        self._checks.put(name, check)
        return check


def _source_and_trust(target: Target) -> tuple[SwiftSource | None, str | None]:
    return target.swift, target.trust_id


def _refused(target: Target, refusal: str, bad_etag: str | None = None) -> _Check:
    return _Check(_source_and_trust(target), time.monotonic() + _REFUSED_S, refusal, bad_etag)
