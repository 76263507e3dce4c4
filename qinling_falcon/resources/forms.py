"""Function uploads: multipart forms streamed to storage, plain forms, and JSON."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

import falcon
from falcon.media.multipart import BodyPart, MultipartFormHandler, MultipartParseError, MultipartParseOptions

from qinling_falcon.errors import BadRequest, LengthRequired, QinlingError, TooLarge, Unavailable
from qinling_falcon.resources.bodies import read_body, read_object
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.strict_json import check_text
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import ORPHAN_AGE_S, PackageStore, StoredPackage

PACKAGE = "package"
_MULTIPART = "multipart/form-data"
_FORM = "application/x-www-form-urlencoded"
_MAX_PARTS = 64


@dataclass(slots=True)
class Upload:
    """What a client sent to make or change a function.

    Attributes:
        fields: the form's fields as text, or the members of a JSON object.
        package: the package part, or the copy of an object in Swift, stored already; whoever holds this must hand it
            over or delete it.
        etag: Swift's, of the object that `package` is a copy of.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    package: StoredPackage | None = None
    etag: str | None = None

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[None]:
        """Around the write of the row that names the package, which belongs to the row from then on.

        It comes back when the write was refused for certain. When it is unknown
        whether it was made, a file too many is better than a row without one.
        """
        package, self.package = self.package, None
        try:
            yield
        except Unavailable:
            raise
        except QinlingError:
            self.package = package
            raise


def read_upload(req: Request, packages: PackageStore, settings: Settings, known: Container[str]) -> Upload:
    """Read a form or a JSON object; a package part goes straight to storage.

    A crash after the package is stored and before its function's row is
    committed leaves a file that no row names: it costs space, nothing else.

    Args:
        req: the request.
        packages: where a package part goes.
        settings: the limits.
        known: names of the fields that this request may hold.

    Raises:
        LengthRequired: a multipart body without a Content-Length.
        TooLarge: the body, a field or the package is above its limit.
        UnsupportedMediaType: neither a form nor JSON.
        RequestTimeout, Unavailable: see `read_body`.
        BadRequest: a broken form, or a part that nobody knows; nothing of it stays in storage.
    """
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type == _MULTIPART:
        with req.receiving(req.arriving.uploads):
            return _read_multipart(req, packages, settings, known)
    if media_type == _FORM:
        return Upload(_read_form(req, settings))
    return Upload(read_object(req, settings))


def _read_form(req: Request, settings: Settings) -> dict[str, Any]:
    body = read_body(req, settings.max_body_size)
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_PARTS, errors="strict")
    except ValueError as error:  # not UTF-8, or too many fields
        raise BadRequest(f"The form could not be read: {error}.") from None
    for name, value in pairs:
        check_text(name, "A field's name")
        check_text(value, f"Field '{name}'")
    return dict(pairs)


def _read_multipart(req: Request, packages: PackageStore, settings: Settings, known: Container[str]) -> Upload:
    length = req.content_length
    if length is None:
        raise LengthRequired("An upload needs a Content-Length.")
    if length > settings.max_package_size + settings.max_body_size:
        raise TooLarge(f"The upload is larger than the limit of a package, {settings.max_package_size} bytes.")
    upload = Upload()
    unknown: list[str] = []
    left = settings.max_body_size
    stored_at = math.inf
    try:
        try:
            form = _handler.deserialize(req.bounded_stream, req.content_type, length)
            for part in form:
                name = _name_of(part)
                if name == PACKAGE:
                    if upload.package is not None:
                        raise BadRequest("The form has two parts named 'package'.")
                    upload.package = packages.save(part.stream, settings.max_package_size)
                    stored_at = time.monotonic()
                elif name in known or req.reference_client:
                    text = _text_of(part, name, left)
                    left -= len(text)
                    upload.fields[name] = text
                else:
                    unknown.append(name)
        except (MultipartParseError, falcon.HTTPInvalidHeader) as error:
            raise BadRequest(f"The form could not be read: {error.description}.") from None
        if time.monotonic() - stored_at > ORPHAN_AGE_S / 2:
            late = (
                f"The form's fields came more than {ORPHAN_AGE_S / 2:g} s after the package before them."
                " Send the package as the last part of the form."
            )
            raise BadRequest(late, errors={PACKAGE: [late]})
        if unknown:
            raise BadRequest(
                f"Unknown field: {', '.join(unknown)}.", errors={name: ["Unknown field."] for name in unknown}
            )
    except BaseException:
        if upload.package is not None:
            packages.delete(upload.package.key)
        raise
    return upload


def _name_of(part: BodyPart) -> str:
    try:
        name = part.name
    except ValueError:  # bytes that are not UTF-8
        name = None
    if not name:
        raise BadRequest("A part of the form has no name.")
    check_text(name, "A field's name")
    return name


def _text_of(part: BodyPart, name: str, limit: int) -> str:
    data = part.stream.read(limit + 1)
    if len(data) > limit:
        raise TooLarge(f"Field '{name}' is too large.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest(f"Field '{name}' is not UTF-8.") from None
    check_text(text, f"Field '{name}'")
    return text


_options = MultipartParseOptions()
_options.max_body_part_count = _MAX_PARTS
_handler = MultipartFormHandler(_options)
