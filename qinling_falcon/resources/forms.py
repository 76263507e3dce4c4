"""Function uploads: multipart forms streamed to storage, plain forms, and JSON."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from marshmallow import fields

from qinling_falcon.errors import BadPackage, BadRequest, LengthRequired, QinlingError, TooLarge, Unavailable
from qinling_falcon.resources.bodies import check_encoding, read_body, read_object
from qinling_falcon.resources.multipart import MAX_PARTS, Part, read_parts
from qinling_falcon.resources.request import Request
from qinling_falcon.schemas.base import unknown_fields
from qinling_falcon.schemas.callbacks import CallbackSecret, CallbackUrl
from qinling_falcon.schemas.fields import Flag, Id, Number
from qinling_falcon.schemas.strict_json import check_text
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import ORPHAN_AGE_S, PackageStore, StoredPackage

PACKAGE = "package"
_MULTIPART = "multipart/form-data"
_FORM = "application/x-www-form-urlencoded"
_WANTED = f"{_MULTIPART} (for a package), {_FORM} or application/json"
_MAKE_A_ZIP = "Put the modules into one: python3 -m zipfile -c function.zip main.py"
_SEND_A_FILE = "It was sent as text: with curl, write @ before the file's name, as in -F package=@function.zip"
# The accepted charsets of a part. All are stateless codecs that Python decodes as other programs do.
_CHARSETS = frozenset(
    {"utf-8", "utf8", "us-ascii", "ascii", "latin1", "koi8-r", "gb2312", "gbk", "gb18030", "big5", "shift_jis"}
    | {"euc-jp", "euc-kr"}
    | {f"iso-8859-{number}" for number in (*range(1, 12), 13, 14, 15, 16)}
    | {f"windows-{number}" for number in range(1250, 1259)}
)

# The fields of a request, by name.
Known = Mapping[str, fields.Field[Any]]


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


def read_upload(req: Request, packages: PackageStore, settings: Settings, known: Known) -> Upload:
    """Read a form or a JSON object; a package part is streamed to storage.

    A crash after the package is stored and before its function's row is
    committed leaves a file that no row names. `PackageStore.sweep` deletes it.

    Args:
        req: the request.
        packages: the storage for a package part.
        settings: the limits.
        known: the fields that this request may have. Browsers also send empty fields, so an empty number, id, flag,
            callback or secret in a form counts as not given.

    Raises:
        LengthRequired: the body is multipart and has no Content-Length.
        TooLarge: the body, a field or the package is above its limit.
        UnsupportedMediaType: the body is neither a form nor JSON, or it is compressed.
        RequestTimeout, Unavailable: see `read_body`.
        BadRequest: the form is broken, or a part has an unknown name. The package is then removed from storage.
    """
    media_type = (req.content_type or "").partition(";")[0].strip().lower()
    if media_type == _MULTIPART:
        with req.receiving(req.arriving.uploads):
            return _read_multipart(req, packages, settings, known)
    if media_type == _FORM:
        return Upload(_read_form(req, settings, known))
    return Upload(read_object(req, settings, wanted=_WANTED))


def _read_form(req: Request, settings: Settings, known: Known) -> dict[str, Any]:
    body = read_body(req, settings.max_body_size)
    try:
        pairs = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MAX_PARTS, errors="strict")
    except ValueError as error:  # not UTF-8, or too many fields
        raise BadRequest(f"The form could not be read: {error}.") from None
    for name, value in pairs:
        check_text(name, "A field's name")
        check_text(value, f"Field '{name}'", name)
    return {name: value for name, value in pairs if value or not _is_absent_when_empty(known, name)}


def _read_multipart(req: Request, packages: PackageStore, settings: Settings, known: Known) -> Upload:
    length = req.content_length
    if length is None:
        raise LengthRequired("An upload needs a Content-Length: it can't be sent in chunks.")
    check_encoding(req)
    if length > settings.max_package_size + settings.max_body_size:
        raise TooLarge(f"The upload is larger than the limit of a package, {settings.max_package_size} bytes.")
    upload = Upload()
    unknown: list[str] = []
    left = settings.max_body_size
    stored_at = math.inf
    try:
        for part in read_parts(req.bounded_stream.read, length, req.content_type or ""):
            name = part.name
            if name == PACKAGE:
                if is_no_file(part):
                    continue
                if upload.package is not None:
                    raise BadRequest("The form has two parts named 'package'.")
                upload.package = _save(part, packages, settings.max_package_size, req.caller.project_id)
                stored_at = time.monotonic()
            elif name in known or req.reference_client:
                text = text_of(part, left)
                left -= len(text)
                if text or not _is_absent_when_empty(known, name):
                    upload.fields[name] = text
            else:
                unknown.append(name)
        if time.monotonic() - stored_at > ORPHAN_AGE_S / 2:
            late = (
                f"The form's fields came more than {ORPHAN_AGE_S / 2:g} s after the package before them."
                " Send the package as the last part of the form."
            )
            raise BadRequest(late, errors={PACKAGE: [late]})
        if unknown:
            raise unknown_fields(unknown, [*known, PACKAGE])
    except BaseException:
        if upload.package is not None:
            packages.delete(upload.package.key)
        raise
    return upload


def _is_absent_when_empty(known: Known, name: str) -> bool:
    return isinstance(known.get(name), Number | Id | Flag | CallbackUrl | CallbackSecret)


def _save(part: Part, packages: PackageStore, limit: int, project_id: str) -> StoredPackage:
    try:
        return packages.save(part.stream, limit, project_id=project_id)
    except BadPackage as error:
        if not part.is_whole():
            message = "The upload is cut off: the form ends within its package. Send it again."
            raise BadRequest(message, errors={PACKAGE: [message]}) from None
        advice = _MAKE_A_ZIP if part.file_name is not None else _SEND_A_FILE
        message = f"{error.message} {advice}" if error.message.endswith("is not a zip archive.") else error.message
        raise BadRequest(message, errors={PACKAGE: [message]}) from None


def is_no_file(part: Part) -> bool:
    """Whether the part is a file field without a file: browsers send an empty part for it."""
    return part.file_name == "" and not part.stream.peek(1)


def text_of(part: Part, limit: int) -> str:
    """Read the content of a part as text, in the charset that the part names.

    Raises:
        TooLarge: it has more than `limit` bytes.
        BadRequest: it is not text in this charset, or contains NUL or a lone surrogate.
    """
    what = f"Field '{part.name}'"
    data = part.stream.read(limit + 1)
    if len(data) > limit:
        message = f"{what} is too large: all fields of a form together may have at most MAX_BODY_SIZE bytes."
        raise TooLarge(message, errors={part.name: [message]})
    charset = (part.charset or "utf-8").lower()
    if charset not in _CHARSETS:
        message = f"{what} has the unsupported charset {charset[:40]!a}: send it in UTF-8."
        raise BadRequest(message, errors={part.name: [message]})
    try:
        text = data.decode(charset)
    except UnicodeDecodeError:
        message = f"{what} is not in {charset.upper()}: send it in UTF-8, or name its charset in its Content-Type."
        raise BadRequest(message, errors={part.name: [message]}) from None
    check_text(text, what, part.name)
    return text
