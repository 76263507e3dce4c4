"""What strangers send as JSON is either plain data or a clear 400."""

from __future__ import annotations

import json

import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.schemas.strict_json import parse_json


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": "\\u0000"}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ["\\ud800x"]}',
        b'{"a": "\x00"}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[" * 65 + b"]" * 65,
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)
def test_what_is_not_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_json(body, 64)
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, None, True, "x"]},
        {"pair": "\U0001f600"},
        [[0]] * 200,
        json.loads("[" * 64 + "]" * 64),
        10**4000,
    ],
)
def test_plain_json_is_read(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text.encode(), 64) == value


def test_the_last_of_two_members_with_one_name_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}', 64) == {"a": 2}
