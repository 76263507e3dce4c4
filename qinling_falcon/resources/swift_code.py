"""Function code in Swift, read with the caller's token."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

from qinling_falcon.auth.identity import Identity
from qinling_falcon.errors import BadRequest, Forbidden, NotFound, NotSupported
from qinling_falcon.models.function import Function
from qinling_falcon.resources.forms import Upload
from qinling_falcon.settings import Settings
from qinling_falcon.storage.objects import Account, ObjectForbidden, ObjectMissing, TokenRefused
from qinling_falcon.storage.packages import OpenPackage, PackageStore

if TYPE_CHECKING:
    from qinling_falcon.storage.swift import Swift


class SwiftCode:
    """Takes objects from Swift with callers' tokens."""

    def __init__(self, settings: Settings, packages: PackageStore):
        self._limit = settings.max_package_size
        self._packages = packages
        self._settings = settings

    @cached_property
    def _swift(self) -> Swift:
        from qinling_falcon.storage.swift import Swift  # noauth's callers have no token for it

        return Swift(self._settings)

    def take(self, caller: Identity, where: dict[str, str], md5sum: str | None, upload: Upload) -> None:
        """Store a copy of an object, with the same checks as for an uploaded package, and set it in `upload`.

        A crash after the copy is stored leaves a package that no row names, as with an upload.

        Raises:
            BadRequest: the caller can't read the object, it is not a valid package, its md5 is not `md5sum`, or the
                caller has no Swift endpoint.
            Forbidden: the caller can't create the trust that later calls need to read the object.
            TooLarge: the object is above a limit for packages.
            Unavailable, BadGateway: see `Swift`.
        """
        if caller.token is None:
            _refuse("source swift needs authentication, which is off.")
        if caller.object_store is None:
            _refuse("the token's catalogue has no object-store, which source swift needs.")
        if caller.by_credential:
            # Before Swift is asked, which believes none that has access rules, and would be taken for away.
            raise Forbidden("Code in Swift is fetched by a trust of its user, and application credentials make none.")
        account = Account(caller.object_store, caller.token)
        try:
            found = self._swift.open(account, where["container"], where["object"], self._limit)
            try:
                upload.package = self._packages.save(found, self._limit, md5sum, project_id=caller.context.project_id)
            finally:
                found.close()
        except (ObjectMissing, ObjectForbidden):
            _refuse(f"there is no object {where['container']}/{where['object']} in Swift that the caller may read.")
        upload.etag = found.etag

    def open(self, caller: Identity, function: Function) -> tuple[OpenPackage, str]:
        """A function's object as it is in its project's account now, with the caller's rights, and its etag.

        Raises:
            NotFound: it is gone.
            Forbidden: the caller may not read it.
            NotSupported: there is no Swift that could be asked for this caller.
            TooLarge, Unavailable, BadGateway: as `Swift`.
        """
        if caller.token is None or caller.object_store is None:
            raise NotSupported("There is no object-store in Swift that could be asked for this caller.")
        url = caller.object_store
        if function.project_id != caller.context.project_id:
            if url.count(caller.context.project_id) != 1:
                raise NotSupported("Where the account of the function's project is in Swift is not known.")
            url = url.replace(caller.context.project_id, function.project_id)
        where = function.code["swift"]
        shown = f"Object {where['container']}/{where['object']} of function {function.id}"
        account = Account(url, caller.token)
        try:
            found = self._swift.open(account, where["container"], where["object"], self._limit)
        except ObjectMissing:
            raise NotFound(f"{shown} is not in Swift.") from None
        except ObjectForbidden:
            raise Forbidden(f"{shown} may not be read by the caller, says Swift.") from None
        except TokenRefused:
            if not caller.by_credential:
                raise
            # Keystone has just believed it: it has access rules, and none for Swift.
            raise Forbidden(f"{shown} may not be read with this application credential, says Swift.") from None
        return OpenPackage(found, found.size, far=True), found.etag


def _refuse(message: str) -> NoReturn:
    raise BadRequest(f"code: {message}", errors={"code": [message]})
