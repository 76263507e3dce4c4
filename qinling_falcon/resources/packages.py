"""How an upload and the fields around it become the code of a function."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from qinling_falcon.errors import BadRequest, NotSupported
from qinling_falcon.models.function import Function
from qinling_falcon.resources.forms import PACKAGE, Upload
from qinling_falcon.storage.packages import PackageStore


def code_of_new(values: dict[str, Any], upload: Upload) -> dict[str, Any]:
    """The `code` of a new function.

    Raises:
        BadRequest: something is missing, or doesn't fit the package.
        NotSupported: a source that this installation has not.
    """
    code: dict[str, Any] = values["code"]
    match code["source"]:
        case "image":
            raise NotSupported("code: functions from images are not supported yet.")
        case "swift":
            message = "source swift needs authentication, which is off."
            raise BadRequest(f"code: {message}", errors={"code": [message]})
    if upload.package is None:
        raise BadRequest("package: the package's file is missing.", errors={PACKAGE: ["Missing data."]})
    if values["runtime_id"] is None:
        raise BadRequest("runtime_id: Missing data for required field.", errors={"runtime_id": ["Missing data."]})
    _check_sum(code, upload)
    return _code_of(upload)


def changes_of(function: Function, values: dict[str, Any], upload: Upload) -> dict[str, Any]:
    """The columns that an update changes; `count` is taken, and changes nothing.

    Raises:
        BadRequest: another kind of source, `code` without its package, or the package that is there already.
    """
    changes = {name: value for name, value in values.items() if name not in ("code", "count")}
    code = values.get("code")
    if code is not None:
        source = function.code["source"]
        if code["source"] != source:
            message = f"the source of a function can't change, and it is {source}."
            raise BadRequest(f"code: {message}", errors={"code": [message]})
        if upload.package is None:
            message = "code can only change together with its package."
            raise BadRequest(f"package: {message}", errors={PACKAGE: [message]})
        if code.get("md5sum") == function.code["md5sum"]:
            raise BadRequest("code: the checksum is not changed.", errors={"code": ["checksum is not changed"]})
        _check_sum(code, upload)
    if upload.package is not None:
        changes |= {"code": _code_of(upload), "package_key": upload.package.key}
    return changes


@contextlib.contextmanager
def taken_back(packages: PackageStore, upload: Upload) -> Iterator[None]:
    """Remove what the upload has stored when the body fails before it is handed over."""
    try:
        yield
    except BaseException:
        if upload.package is not None:
            packages.delete(upload.package.key)
        raise


def _check_sum(code: dict[str, Any], upload: Upload) -> None:
    assert upload.package is not None
    given = code.get("md5sum")
    if given is not None and given != upload.package.md5sum:
        message = f"the package's md5sum is {upload.package.md5sum}, not {given}."
        raise BadRequest(f"code: {message}", errors={"code": [message]})


def _code_of(upload: Upload) -> dict[str, Any]:
    assert upload.package is not None
    return {"source": "package", "md5sum": upload.package.md5sum}
