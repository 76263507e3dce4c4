"""`PACKAGE_STORAGE=swift`: packages in the service's own account in Swift, for several machines.

The machine that receives a package checks it, then stores it as one object under its
key. A crash before that leaves a file. A crash between that and the commit of the
row with the key leaves an object that no row names. `sweep` deletes both.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
from collections.abc import Callable, Collection
from typing import TypeVar

import gevent
from keystoneauth1.exceptions import ClientException
from keystoneauth1.identity.v3 import Password
from keystoneauth1.session import Session

from qinling_falcon.errors import BadGateway, TooLarge, Unavailable
from qinling_falcon.openstack import OBJECT_STORE, credentials
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing, TokenRefused
from qinling_falcon.storage.packages import (
    OpenPackage,
    PackageMissing,
    StoredPackage,
    archive_limits,
    is_key,
    new_key,
)
from qinling_falcon.storage.spool import Readable, Received, Spool, check_turns
from qinling_falcon.storage.swift import CHUNK, Swift

log = logging.getLogger(__name__)

T = TypeVar("T")


class SwiftPackages:
    """Packages in a Swift container, which is created if missing."""

    def __init__(self, settings: Settings):
        self._container = settings.package_container
        # Of what was stored under larger limits than today's, nearly all can still be read; of nonsense, not all.
        self._most = max(settings.max_package_size, settings.max_unpacked_size)
        self._swift = Swift(settings)
        self._own = _OwnAccount(settings)
        folder = settings.var_dir.absolute() / "uploads"
        turns = check_turns(settings.project_uploads, settings.upload_queue_timeout_s)
        self._spool = Spool(folder, archive_limits(settings), turns)

    def save(self, stream: Readable, size_limit: int, md5sum: str | None = None, *, project_id: str) -> StoredPackage:
        """See `PackageStore`."""
        with self._spool.received(stream, size_limit, md5sum, project_id) as received:
            key = new_key(received.md5sum)
            try:
                try:
                    self._do(lambda account: self._put(account, key, received))
                except ObjectMissing:
                    self._do(lambda account: self._swift.make_container(account, self._container))
                    self._do(lambda account: self._put(account, key, received))
            except ObjectMissing:
                raise Unavailable("The package storage keeps nothing; try again.", retry_after_s=1) from None
            return StoredPackage(received.md5sum, received.size, key)

    def open(self, key: str) -> OpenPackage:
        """See `PackageStore`."""
        if not is_key(key):
            raise PackageMissing(key)
        try:
            found = self._do(lambda account: self._swift.open(account, self._container, key, self._most))
        except ObjectMissing:
            raise PackageMissing(key) from None
        except TooLarge as error:
            raise BadGateway("The package storage holds something else than it was given.") from error
        return OpenPackage(found, found.size, far=True)

    def read(self, key: str) -> bytes:
        """See `PackageStore`."""
        stream = self.open(key).stream
        with contextlib.closing(stream):
            return b"".join(iter(lambda: stream.read(CHUNK), b""))

    def size(self, key: str) -> int | None:
        """See `PackageStore`."""
        try:
            found = self.open(key)
        except PackageMissing:
            return None
        found.stream.close()
        return found.size

    def delete(self, key: str) -> None:
        """See `PackageStore`."""
        if not is_key(key):
            raise PackageMissing(key)
        try:
            with contextlib.suppress(ObjectMissing):
                self._do(lambda account: self._swift.delete(account, self._container, key))
        except (Unavailable, BadGateway) as error:
            log.warning("package %s is left to the sweep: %s", key, error)

    def sweep(self, known_keys: Callable[[], Collection[str]], older_than_s: float) -> list[str]:
        """See `PackageStore`. Of the container's other objects none is touched."""
        before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=older_than_s)
        removed = []
        for path in self._spool.stale(older_than_s):
            path.unlink(missing_ok=True)
            removed.append(path.name)
        try:
            listed = self._do(lambda account: list(self._swift.list(account, self._container)))
        except ObjectMissing:  # nobody has saved anything yet
            return removed
        old = [entry.name for entry in listed if is_key(entry.name) and entry.modified <= before]
        known = known_keys() if old else ()
        for key in old:
            if key not in known:
                self.delete(key)
                removed.append(key)
        return sorted(removed)

    def _put(self, account: Account, key: str, received: Received) -> None:
        self._swift.put(account, self._container, key, received.file, received.size, received.md5sum)

    def _do(self, act: Callable[[Account], T]) -> T:
        """Do something in the service's account; once more, with a new token, when Swift doesn't believe the old one.

        Raises:
            ObjectMissing: as `act`.
            Unavailable, BadGateway: as `act`; and when the service's user may not do that.
        """
        try:
            try:
                return act(self._own.find())
            except TokenRefused:
                return act(self._own.find(renew=True))
        except ObjectForbidden:
            log.warning("OS_USERNAME may not use container %s: it lacks a role that Swift wants", self._container)
            raise Unavailable("The package storage can't be used.") from None


class _OwnAccount:
    """Where the service's account is, and its token, which is renewed before it ends."""

    def __init__(self, settings: Settings):
        self._timeout_s = settings.keystone_timeout_s
        self._region = settings.os_region_name
        self._interface = settings.os_interface
        verify: bool | str = True if settings.os_cacert is None else str(settings.os_cacert)
        plugin = Password(**credentials(settings))
        self._session = Session(plugin, timeout=self._timeout_s, verify=verify, redirect=False)

    def find(self, *, renew: bool = False) -> Account:
        """The account, with a token that is good as far as is known.

        Raises:
            Unavailable: Keystone is away, doesn't know the service's user, or knows of no Swift.
        """
        timeout = gevent.Timeout.start_new(self._timeout_s)
        try:
            if renew:
                self._session.invalidate()
            token = self._session.get_token()
            url = self._session.get_endpoint(
                service_type=OBJECT_STORE, interface=self._interface, region_name=self._region
            )
        except gevent.Timeout as expired:
            if expired is not timeout:
                raise
            raise self._away(f"no answer within {self._timeout_s:g} s") from None
        except ClientException as error:
            raise self._away(f"{type(error).__name__}: {error}") from None
        except Exception as error:  # its answer was not what keystoneauth reckons with
            raise self._away(f"its answer can't be understood: {type(error).__name__}") from None
        finally:
            timeout.close()
        if not token or not url:
            raise self._away("Keystone's catalogue has no object-store for OS_USERNAME")
        return Account(url, token)

    def _away(self, reason: str) -> Unavailable:
        log.warning("the package storage can't be used: %s", reason)
        return Unavailable("The package storage can't be used at the moment; try again.", retry_after_s=1)
