"""Converts an upload and its fields into the columns of a function."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from qinling_falcon.errors import BadRequest
from qinling_falcon.models.function import ROW_ONLY, Function
from qinling_falcon.resources.forms import PACKAGE, Upload
from qinling_falcon.schemas.entries import DEFAULT_ENTRY
from qinling_falcon.storage.packages import PackageStore

_UPLOAD = "Send a multipart form with the zip archive as its part 'package' (curl -F package=@function.zip)."
# The columns that a function from an image can change.
_OF_IMAGES = ROW_ONLY | {"concurrency"}
# Takes what lies at that place in Swift, and has that md5sum if one is given, into the upload.
Take = Callable[[dict[str, str], str | None, Upload], None]


def columns_of_new(values: dict[str, Any], upload: Upload, take: Take) -> dict[str, Any]:
    """The columns of a new function. The rules depend on the source of its code.

    Raises:
        BadRequest: a field is missing, or does not fit the source or the package.
        QinlingError: see `take`.
    """
    code: dict[str, Any] = values["code"]
    source = code["source"]
    if source == "image":
        if "image" not in code:
            _refuse("code", "image is required for source image.")
        if values["entry"] is not None:
            _refuse("entry", "a function from an image has no entry.")
        if values["isolation"] is not None:
            _refuse("isolation", "a function from an image has no isolation: each execution has its own container.")
        if values["min_warm"]:
            _refuse("min_warm", "a function from an image has no min_warm: each execution has its own container.")
        _check_no_package(upload, source)
        return values | {"package_key": None}
    if values["runtime_id"] is None:
        _refuse("runtime_id", "Missing data for required field. GET /v1/runtimes lists the runtimes with their ids.")
    entry = values["entry"] or DEFAULT_ENTRY
    if source == "swift":
        if len(code.get("swift", ())) != 2:
            _refuse("code", "swift.container and swift.object are required for source swift.")
        _check_no_package(upload, source)
        return values | {"entry": entry} | _swift_columns(code["swift"], code, upload, take)
    if upload.package is None:
        _refuse(PACKAGE, f"the package's file is missing. {_UPLOAD}")
    _check_sum(code, upload)
    return values | {"entry": entry} | _uploaded_columns(upload)


def changes_of(function: Function, values: dict[str, Any], upload: Upload, take: Take) -> dict[str, Any]:
    """The columns that an update changes; `count` is taken, and changes nothing.

    Raises:
        BadRequest: another kind of source, what a function of this source can't change, `code` without its package,
            or the package that is there already.
        QinlingError: as `take`.
    """
    changes = {name: value for name, value in values.items() if name not in ("code", "count")}
    code: dict[str, Any] | None = values.get("code")
    source = function.code["source"]
    if code is not None and code["source"] != source:
        _refuse("code", f"the source of a function can't change, and it is {source}.")
    if source != "package":
        _check_no_package(upload, source)
    match source:
        case "image":
            for name in [*(["code"] if code is not None else []), *sorted(changes.keys() - _OF_IMAGES)]:
                _refuse(name, f"a function from an image can change its {', '.join(sorted(_OF_IMAGES))} only.")
        case "swift":
            if code is not None:
                changes |= _swift_columns(_moved(function.code["swift"], code), code, upload, take)
        case "package":
            changes |= _package_changes(function, code, upload)
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


def _package_changes(function: Function, code: dict[str, Any] | None, upload: Upload) -> dict[str, Any]:
    if code is not None:
        if upload.package is None:
            _refuse(PACKAGE, f"code can only change together with its package. {_UPLOAD}")
        if code.get("md5sum") == function.code["md5sum"]:
            raise BadRequest("code: the checksum is not changed.", errors={"code": ["checksum is not changed"]})
        _check_sum(code, upload)
    if upload.package is None:
        return {}
    return _uploaded_columns(upload)


def _moved(where: dict[str, str], code: dict[str, Any]) -> dict[str, str]:
    """Where a Swift function's object is from now on; an update may name the container, the object, or both."""
    named: dict[str, str] = code.get("swift", {})
    if not named:
        _refuse("code", "swift.container or swift.object is required.")
    return where | named


def _swift_columns(where: dict[str, str], code: dict[str, Any], upload: Upload, take: Take) -> dict[str, Any]:
    """Copy the object and return the columns for the copy."""
    take(where, code.get("md5sum"), upload)
    assert upload.package is not None
    return {
        "code": {"source": "swift", "swift": where, "md5sum": upload.package.md5sum},
        "package_key": upload.package.key,
        "package_size": upload.package.size,
        "source_etag": upload.etag,
    }


def _check_no_package(upload: Upload, source: str) -> None:
    if upload.package is not None:
        _refuse(PACKAGE, f"a function with source {source} has no package.")


def _check_sum(code: dict[str, Any], upload: Upload) -> None:
    assert upload.package is not None
    given = code.get("md5sum")
    if given is not None and given != upload.package.md5sum:
        _refuse("code", f"the package's md5sum is {upload.package.md5sum}, not {given}.")


def _uploaded_columns(upload: Upload) -> dict[str, Any]:
    """The columns of an uploaded package."""
    package = upload.package
    assert package is not None
    return {
        "code": {"source": "package", "md5sum": package.md5sum},
        "package_key": package.key,
        "package_size": package.size,
    }


def _refuse(field: str, message: str) -> NoReturn:
    raise BadRequest(f"{field}: {message}", errors={field: [message]})
