"""Downloads of packages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import falcon

from qinling_falcon.errors import BadRequest, MethodNotAllowed, Unavailable
from qinling_falcon.models.function import Function
from qinling_falcon.models.version import Version
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.fields import parse_flag
from qinling_falcon.storage.packages import PackageMissing, PackageStore

# What operations that send packages say of themselves.
DOWNLOAD = ("download", {"type": "boolean", "default": False, "description": "Send the package, as a zip."})
ZIP: Mapping[str, Any] = {"media_type": "application/zip", "some_headers": ("ETag", "Content-Disposition")}


def wants_download(req: Request) -> bool:
    """Whether the package is asked for, not its description.

    Raises:
        BadRequest: `download` is neither true nor false.
    """
    wanted = parse_flag(req.get_param("download", default="no"))
    if wanted is None:
        raise BadRequest("download must be true or false.", errors={"download": ["Must be true or false."]})
    return wanted


def send_package(resp: falcon.Response, packages: PackageStore, row: Function | Version, name: str) -> None:
    """Answer with the package of a function or a version, as the file `name`.

    Raises:
        MethodNotAllowed: it has none.
        Unavailable: it was replaced or deleted since the row was read.
    """
    if row.package_key is None:
        allowed = "GET, HEAD, PUT, DELETE" if isinstance(row, Function) else "GET, HEAD, DELETE"
        raise MethodNotAllowed(f"Function {row.id} has no package to download.", allowed=allowed)
    try:
        package = packages.open(row.package_key)
    except PackageMissing:
        raise Unavailable("The package is not there at the moment; try again.", retry_after_s=1) from None
    resp.content_type = "application/zip"
    resp.set_header("Content-Disposition", f'attachment; filename="{name}"')
    resp.set_header("ETag", f'"{row.code["md5sum"]}"')
    resp.set_stream(package, os.fstat(package.fileno()).st_size)
