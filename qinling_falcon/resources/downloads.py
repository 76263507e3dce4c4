"""Downloads of packages."""

from __future__ import annotations

import os

import falcon

from qinling_falcon.errors import MethodNotAllowed, Unavailable
from qinling_falcon.models.function import Function
from qinling_falcon.models.version import Version
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.fields import parse_flag
from qinling_falcon.storage.packages import PackageMissing, PackageStore


def wants_download(req: Request) -> bool:
    """Whether the package is asked for, not its description."""
    return bool(parse_flag(req.get_param("download", default="no")))


def send_package(resp: falcon.Response, packages: PackageStore, row: Function | Version, name: str) -> None:
    """Answer with the package of a function or a version, as the file `name`.

    Raises:
        MethodNotAllowed: it has none.
        Unavailable: it was replaced or deleted since the row was read.
    """
    if row.package_key is None:
        raise MethodNotAllowed(f"Function {row.id} has no package to download.")
    try:
        package = packages.open(row.package_key)
    except PackageMissing:
        raise Unavailable("The package is not there at the moment; try again.", retry_after_s=1) from None
    resp.content_type = "application/zip"
    resp.set_header("Content-Disposition", f'attachment; filename="{name}"')
    resp.set_header("ETag", f'"{row.code["md5sum"]}"')
    resp.set_stream(package, os.fstat(package.fileno()).st_size)
