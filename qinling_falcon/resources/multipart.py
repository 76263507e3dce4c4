"""Reads the parts of `multipart/form-data` bodies one by one, and accepts the variants that HTTP clients really send.

`forms.read_upload` calls this module. Falcon's form reader is too strict for many clients: it refuses
`Content-Transfer-Encoding: 8bit` (Apache HttpClient), loses headers without a space after the colon, and loses the
part's name if its file name is not UTF-8. This module uses only Falcon's buffered stream. Memory is bounded: only the
headers of a part are read into memory, and its content is a stream.

The reader accepts these deviations from RFC 7578:

1. lines that end with LF alone, if all lines of a part do;
2. white space after a boundary;
3. folded headers;
4. text before the first boundary and after the last one;
5. an empty part whose boundary follows its headers directly.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falcon import DelimiterError
from falcon.util import BufferedReader

from qinling_falcon.errors import BadRequest
from qinling_falcon.schemas.strict_json import check_text

if TYPE_CHECKING:
    from falcon.util.reader import BufferedReader as Stream  # the class above may be the Cython version

MAX_PARTS = 64
MAX_HEADER_BYTES = 8192
_MAX_BOUNDARY = 70
# The most white space after a boundary, which some gateways add.
_MAX_PADDING = 128
# The encodings that leave the content unchanged.
_PLAIN_ENCODINGS = frozenset({"7bit", "8bit", "binary", ""})
# `; name=value`, `; name="quoted \" value"`. An unterminated quotation is read as a plain value.
_PARAMETER = re.compile(r';\s*+([^\s=;"]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^;]*+)')
_ESCAPED = re.compile(r'\\(["\\])')


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form.

    Attributes:
        name: the name of the form's field.
        file_name: the name of the uploaded file. It is not decoded: each byte is one Latin-1 character. None: not a
            file.
        content_type: the part's `Content-Type`, if it has one. It is not decoded either.
        charset: the `charset` of the `Content-Type`, if it has one.
        stream: the content of this part only. It is valid until the next part is requested.
        is_whole: whether a boundary follows the content. It is valid when the content was read to its end.
    """

    name: str
    file_name: str | None
    content_type: str | None
    charset: str | None
    stream: Stream
    is_whole: Callable[[], bool]


def read_parts(read: Callable[[int], bytes], length: int, content_type: str) -> Iterator[Part]:
    """Yield the parts of a form in their order.

    Args:
        read: reads up to the given number of bytes of the body.
        length: the length of the body in bytes.
        content_type: the request's Content-Type, with the boundary.

    Raises:
        BadRequest: the form is broken; the message names the part and what is wrong with it.
    """
    stream: Stream = BufferedReader(read, length)
    dashes = b"--" + _boundary(content_type)
    delimiter = dashes
    number = 0
    while True:
        try:
            stream.pipe_until(delimiter, consume_delimiter=True)
        except DelimiterError:
            where = f"after part {number}" if number else "before its first part"
            raise _broken(f"{where} it ends without the boundary that its Content-Type names") from None
        if stream.peek(2) == b"--":
            return
        number += 1
        if number > MAX_PARTS:
            raise _broken(f"it has more than {MAX_PARTS} parts")
        line_end = _end_line(stream, number)
        headers = _read_headers(stream, number, line_end)
        delimiter = dashes if stream.peek(len(dashes)) == dashes else line_end + dashes
        at_boundary = functools.partial(_is_next, stream, delimiter)
        yield _part(number, headers, stream.delimit(delimiter), at_boundary)


def parameters(header: str) -> dict[str, str]:
    """The parameters of a header such as `Content-Disposition`, by lower-case name. The first of a name counts."""
    found: dict[str, str] = {}
    for name, value in _PARAMETER.findall(header):
        if value[:1] == '"' == value[-1:] and len(value) > 1:
            value = _ESCAPED.sub(r"\1", value[1:-1])
        found.setdefault(name.lower(), value.strip())
    return found


def _boundary(content_type: str) -> bytes:
    boundary = parameters(content_type).get("boundary", "")
    if not 1 <= len(boundary) <= _MAX_BOUNDARY:
        raise _broken(f"its Content-Type must name a boundary of 1 to {_MAX_BOUNDARY} characters")
    return boundary.encode("latin-1")


def _end_line(stream: Stream, number: int) -> bytes:
    """Read the rest of a boundary's line. Returns the line end that the following part uses."""
    try:
        rest = stream.read_until(b"\n", _MAX_PADDING, consume_delimiter=True)
    except DelimiterError:
        rest = b"?"
    if rest.strip(b" \t\r"):
        raise _broken(f"the boundary before part {number} is not followed by the end of its line")
    return b"\r\n" if rest.endswith(b"\r") else b"\n"


def _read_headers(stream: Stream, number: int, line_end: bytes) -> dict[str, str]:
    """Read the headers of a part, by lower-case name."""
    if stream.peek(len(line_end)) == line_end:
        stream.read(len(line_end))
        return {}
    try:
        block = stream.read_until(line_end * 2, MAX_HEADER_BYTES, consume_delimiter=True)
    except DelimiterError:
        message = f"the headers of part {number} don't end with an empty line within {MAX_HEADER_BYTES} bytes"
        raise _broken(message) from None
    headers: dict[str, str] = {}
    for line in re.sub(rb"\r?\n[ \t]+", b" ", block).split(line_end):
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise _broken(f"part {number} has a header line without a colon: {name[:60]!a}")
        headers.setdefault(name.strip().lower(), value.strip())
    return headers


def _is_next(stream: Stream, delimiter: bytes) -> bool:
    return stream.peek(len(delimiter)) == delimiter


def _part(number: int, headers: dict[str, str], content: Stream, is_whole: Callable[[], bool]) -> Part:
    disposition = parameters(headers.get("content-disposition", ""))
    try:
        name = disposition.get("name", "").encode("latin-1").decode()
    except UnicodeDecodeError:
        raise _broken(f"the name of part {number} is not UTF-8") from None
    if not name:
        wanted = 'Content-Disposition: form-data; name="package"'
        raise _broken(f"part {number} has no name; it needs a header such as {wanted}")
    check_text(name, f"The name of part {number} of the form")
    encoding = headers.get("content-transfer-encoding", "")
    if encoding.lower() not in _PLAIN_ENCODINGS:
        message = (
            f"part {number} ({name[:80]!a}) has Content-Transfer-Encoding {encoding[:40]!a}:"
            " send its content as it is, with binary, 8bit or 7bit there, or without that header"
        )
        raise _broken(message, name)
    content_type = headers.get("content-type")
    charset = parameters(content_type or "").get("charset")
    file_name = disposition.get("filename", disposition.get("filename*"))
    return Part(name, file_name, content_type, charset, content, is_whole)


def _broken(message: str, name: str | None = None) -> BadRequest:
    message = f"The form could not be read: {message}."
    return BadRequest(message, errors=None if name is None else {name: [message]})
