"""Downloads of packages."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from typing import Any

import falcon

from qinling_falcon.errors import BadRequest, MethodNotAllowed, Unavailable
from qinling_falcon.models.function import Function
from qinling_falcon.models.version import Version
from qinling_falcon.resources.open_answers import PIECE, OpenAnswer
from qinling_falcon.resources.request import Request
from qinling_falcon.resources.services import Services
from qinling_falcon.schemas.fields import FLAG_OR_EMPTY, parse_flag
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import OpenPackage, PackageMissing, advice_on_missing
from qinling_falcon.storage.spool import landed

# What operations that send packages say of themselves.
DOWNLOAD = (
    "download",
    {**FLAG_OR_EMPTY, "default": False, "description": "Send the package, as a zip; the empty text means no."},
)
ZIP: Mapping[str, Any] = {"media_type": "application/zip", "some_headers": ("ETag", "Content-Disposition")}


def wants_download(req: Request) -> bool:
    """Whether the package is asked for, not its description.

    Raises:
        BadRequest: `download` is neither true nor false.
    """
    wanted = parse_flag(req.get_param("download") or "no")
    if wanted is None:
        raise BadRequest("download must be true or false.", errors={"download": ["Must be true or false."]})
    return wanted


def send_package(req: Request, resp: falcon.Response, services: Services, row: Function | Version, name: str) -> None:
    """Answer with the stored package of a function or a version, as the file `name`.

    Raises:
        MethodNotAllowed: the row has no package.
        Unavailable: the package was replaced or deleted after the row was read, or is lost; or the storage is away.
    """
    if row.package_key is None:
        allowed = "GET, HEAD, PUT, DELETE" if isinstance(row, Function) else "GET, HEAD, DELETE"
        raise MethodNotAllowed(f"Function {row.id} has no package to download.", allowed=allowed)
    try:
        package = services.packages.open(row.package_key)
    except PackageMissing:
        raise Unavailable(
            "The package is not in the package storage; if it was replaced just now, try again."
            f" {advice_on_missing(services.settings)}",
            retry_after_s=1,
        ) from None
    send_file(req, resp, services.settings, package, name, row.code["md5sum"])


def send_file(
    req: Request, resp: falcon.Response, settings: Settings, package: OpenPackage, name: str, etag: str
) -> None:
    """Answer with a package as the file `name`, piece by piece.

    A package on another machine is downloaded completely before the answer begins. A failed download is therefore an
    ordinary error answer, and a slow client holds no connection to that machine.

    Raises:
        TooLarge: the package on another machine is too large.
        Unavailable: reading the package from another machine failed, or too many answers are open.
    """
    if req.method == "HEAD":
        package.stream.close()
        size = package.size
    else:
        size = _send(req, resp, settings, package)
    # Set last, because an error answer must not have these headers.
    resp.content_type = "application/zip"
    resp.set_header("Content-Disposition", f'attachment; filename="{name}"')
    resp.set_header("ETag", f'"{etag}"')
    if size is not None:
        resp.content_length = size


def _send(req: Request, resp: falcon.Response, settings: Settings, package: OpenPackage) -> int | None:
    """Make the package the body of the answer. Returns its size in bytes; None if unknown."""
    with contextlib.ExitStack() as on_error:
        on_error.callback(package.stream.close)
        # If the size of a remote package is unknown, count the largest possible size.
        disk = (package.size or settings.max_package_size) if package.far else 0
        room = req.open_answers.open(req, disk=disk)
        on_error.callback(room.give_back)
        file, size = package.stream, package.size
        if package.far:
            file, size = landed(package.stream, settings.var_dir.absolute() / "uploads")
            package.stream.close()
            room.hold(disk=size)
        on_error.pop_all()
    resp.stream = OpenAnswer(room, iter(functools.partial(file.read, PIECE), b""), file.close)
    return size
