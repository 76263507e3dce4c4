"""Untrusted JSON is either plain data or refused with a clear 400."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinling_falcon.errors import BadRequest
from qinling_falcon.schemas.strict_json import parse_if_json, parse_json


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
        b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}',
        b"\xef\xbb\xbf",
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
        {"a": 2**64 - 1, "b": -(2**63), "c": None, "d": False, "e": "\xe9"},
        {"a": 2**64},
        {"a": -(2**63) - 1},
    ],
)
def test_plain_json_is_read(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text.encode(), 64) == value


def test_the_last_of_two_members_with_one_name_counts() -> None:
    assert parse_json(b'{"a": 1, "a": 2}', 64) == {"a": 2}


def test_a_byte_order_mark_is_skipped() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}', 64) == {"a": "\ufeff"}
    assert parse_json('\ufeff{"a": 1}', 64) == {"a": 1}


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ({"name": "\0"}, "name"),
        ({"input": {"a": {"b": "x\ud800"}}}, "input.a.b"),
        ({"input": {"a": [0, {"b": ["", "\udfff"]}]}}, "input.a[1].b[1]"),
        ({"input": {"\0": 1}}, r"input.\u0000"),
        ({"\ud800": 1}, r"\ud800"),
        ({"ok": "x", "é": "\0"}, r"\u00e9"),
        (["", "\0"], "[1]"),
    ],
)
def test_text_that_can_not_be_stored_is_named_by_its_path(value: object, path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_json(json.dumps(value).encode(), 64)
    assert path in caught.value.message
    assert caught.value.errors == {path: [caught.value.message]}


def test_text_of_a_field_is_named_within_the_field() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_json('{"swift": {"container": "\\u0000"}}', 8, field="code")
    assert caught.value.errors is not None
    assert set(caught.value.errors) == {"code.swift.container"}


def test_a_long_path_is_cut() -> None:
    value: object = "\0"
    for _ in range(60):
        value = {"x" * 1000: value}
    with pytest.raises(BadRequest) as caught:
        parse_json(json.dumps(value).encode(), 64)
    assert len(caught.value.message) < 400


def test_long_names_above_many_values_are_not_copied_for_each() -> None:
    """Storing a path for each value would take 20 GB here."""
    body = json.dumps({"x" * 1_000_000: ["a"] * 20_000 + ["\0"]}).encode()
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest, match=r"\[20000\] holds NUL"):
            parse_json(body, 64)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def test_a_number_with_too_many_digits_names_the_limit() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_json(b'{"a": ' + b"7" * 5000 + b"}", 64)
    assert caught.value.message == "Invalid JSON: an integer has more than 4300 digits."


_TEXTS = st.text(st.sampled_from('[]{}"\\aé'), max_size=5)
_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(_TEXTS, st.integers(), st.sampled_from([None, True, 0.5, 10**400])),
    lambda children: st.one_of(st.lists(children, max_size=4), st.dictionaries(_TEXTS, children, max_size=3)),
    max_leaves=25,
)


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth_of, value.values() if isinstance(value, dict) else value), default=0)


@settings(deadline=None, max_examples=300)
@given(value=_VALUES, arrays=st.integers(0, 4), ascii_only=st.booleans())
def test_the_depth_is_measured_exactly(value: Any, arrays: int, ascii_only: bool) -> None:
    for _ in range(arrays):
        value = [value]
    text, depth = json.dumps(value, ensure_ascii=ascii_only), depth_of(value)
    for parse in (parse_json, parse_if_json):
        parse(text, depth)
        if depth > 0:
            with pytest.raises(BadRequest, match=f"nested deeper than {depth - 1}"):
                parse(text, depth - 1)


_TOKENS = st.sampled_from(
    [
        "[", "]", "{", "}", ",", ":", '"', "\\", '"a"', '"["', '{"a":', "[]", "0", "-1.5", "1e400", "-1E400", "1e-400",
        "9" * 400, "9" * 4300, "9" * 4301, "-" + "9" * 4300, "-" + "9" * 4301, "NaN", "null", '"\\ud800"', '"\\u0000"',
    ]
)  # fmt: skip


@settings(deadline=None, max_examples=500)
@given(text=st.one_of(st.lists(_TOKENS, max_size=8).map("".join), st.lists(_TOKENS, max_size=5).map(
    lambda tokens: f"[{','.join(tokens)}]"
)))  # fmt: skip
def test_text_that_may_be_json_is_refused_only_if_it_is_json_beyond_the_limits(text: str) -> None:
    def refusal() -> str:
        try:
            parse_json(text, 3)
        except BadRequest as error:
            return error.message
        return ""

    try:
        json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=int).decode(text)
    except ValueError:
        assert parse_if_json(text, 3) is None
        return
    if expected := refusal():
        with pytest.raises(BadRequest) as caught:
            parse_if_json(text, 3)
        assert caught.value.message == expected
    else:
        parse_if_json(text, 3)


@pytest.mark.parametrize("last", ["1e999", "9" * 5000, '"\\ud800"', "", "NaN"])
def test_a_text_that_the_fast_parser_refuses_is_parsed_once_more(last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []
    decode = json.JSONDecoder.decode

    def watch(decoder: json.JSONDecoder, text: str) -> Any:
        parsed.append(text)
        return decode(decoder, text)

    monkeypatch.setattr(json.JSONDecoder, "decode", watch)
    text = f"[0, {last}]"
    with contextlib.suppress(BadRequest):
        parse_if_json(text, 64)
    assert parsed == [text]
