"""The input of an execution that a delivery to a webhook starts."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinling_falcon.errors import BadRequest
from qinling_falcon.resources.webhook_inputs import input_of, whole_request

JSON, FORM, TEXT = "application/json", "application/x-www-form-urlencoded", "text/plain"
MULTIPART = "multipart/form-data; boundary=B"
MAX_DEPTH = 8


def made(body: bytes, query: str = "", content_type: str | None = JSON) -> str | None:
    return input_of(query, content_type, body, MAX_DEPTH)


def named(body: bytes, query: str = "", content_type: str | None = JSON) -> Any:
    text = made(body, query, content_type)
    assert text is not None
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def refusal(body: bytes, query: str = "", content_type: str | None = JSON) -> str:
    with pytest.raises(BadRequest) as caught:
        made(body, query, content_type)
    return caught.value.message


def form(*parts: tuple[str, bytes]) -> bytes:
    return b"".join(b"--B\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--B--\r\n"


def field(name: str, data: bytes, more: str = "") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"{more}', data


any_type = pytest.mark.parametrize("content_type", [JSON, None, "", TEXT, "application/octet-stream", "nonsense"])


@any_type
def test_json_is_taken_as_its_text_whatever_its_type(content_type: str | None) -> None:
    for text in ('{"a": 1.10, "b": [12345678901234567890123]}', " {} \n", "[1, 2]", '"text"', "7", "null", "true"):
        assert made(text.encode(), content_type=content_type) == text


@any_type
def test_other_text_is_taken_as_it_is(content_type: str | None) -> None:
    for text in ("hello", "{a: 1}", '{"a": 1', "[1,]", "NaN", '{"a": NaN}', "'x'", "a=1&b=2", "\u00e9", "\n"):
        assert made(text.encode(), content_type=content_type) == text


def test_nothing_is_no_input() -> None:
    for content_type in (None, JSON, FORM, TEXT):
        assert made(b"", "", content_type) is None


def test_a_byte_order_mark_is_skipped() -> None:
    assert made(b'\xef\xbb\xbf{"a": 1}') == '{"a": 1}'
    assert made(b"\xef\xbb\xbf") is None


def test_the_query_string_alone() -> None:
    assert named(b"", "a=1&b=&c&a=2&d=%C3%A9+%26") == {"a": ["1", "2"], "b": "", "c": "", "d": "\u00e9 &"}
    assert named(b"", "a=\u00c3\u00a9") == {"a": "\u00e9"}  # the bytes of UTF-8, as in WSGI


def test_the_body_wins_over_the_query_string() -> None:
    assert named(b'{"a": {"x": 1}, "b": null}', "a=1&c=3") == {"a": {"x": 1}, "b": None, "c": "3"}
    assert named(b"a=1&b=2", "a=9&a=8&c=3", FORM) == {"a": "1", "b": "2", "c": "3"}
    assert named(form(field("a", b"1")), "a=9&c=3", MULTIPART) == {"a": "1", "c": "3"}
    assert named(b"{}", "c=3") == {"c": "3"}


@pytest.mark.parametrize("text", ["[1]", "7", "null", "hello"])
def test_with_a_positional_argument_the_query_string_is_ignored(text: str) -> None:
    assert made(text.encode(), "a=1", TEXT) == text


@pytest.mark.parametrize("content_type", [FORM, FORM.upper(), f"{FORM}; charset=UTF-8", f" {FORM} "])
def test_a_url_encoded_form(content_type: str) -> None:
    expected = {"a": ["1", "2"], "b": "", "null": "", "d": "\u00e9 +"}
    assert named(b"a=1&b=&null&a=2&d=%c3%a9+%2B", "", content_type) == expected


@pytest.mark.parametrize("text", ["7", "null", "true", "[1]"])
def test_a_form_that_looks_like_json_is_a_form(text: str) -> None:
    assert named(text.encode(), "", FORM) == {text: ""}


def test_a_json_object_with_the_type_of_a_form_is_json() -> None:
    """curl sends `-d '{"a": 1}'` with this type, and forms never have braces in them."""
    assert named(b'{"a": 1}', "b=2", FORM) == {"a": 1, "b": "2"}


def test_a_multipart_form() -> None:
    body = form(
        field("a", b"1"),
        field("b", "\u00e9".encode("latin-1"), "\r\nContent-Type: text/plain; charset=iso-8859-1"),
        field("a", b'{"not": "parsed"}'),
        field("empty", b""),
    )
    assert named(body, "", MULTIPART) == {"a": ["1", '{"not": "parsed"}'], "b": "\u00e9", "empty": ""}


def test_files_are_in_base64() -> None:
    body = form(
        field("photo", b"\0\xff", '; filename="\u00e9.png"\r\nContent-Type: image/png'),
        field("plain", b"x", '; filename="x"'),
        field("not_chosen", b"", '; filename=""\r\nContent-Type: application/octet-stream'),
    )
    assert named(body, "", MULTIPART) == {
        "photo": {"filename": "\u00e9.png", "content_type": "image/png", "base64": "AP8="},
        "plain": {"filename": "x", "content_type": None, "base64": "eA=="},
    }


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", MULTIPART),
        (b"a=1", MULTIPART),
        (form(field("a", b"1"))[:-5], MULTIPART),
        (form(field("a", b"1")), "multipart/form-data"),
        (form(("X: y", b"1")), MULTIPART),
        (form(field("a", b"\xff")), MULTIPART),
        (form(field("a", b"\0")), MULTIPART),
        (form(field("a\0", b"1")), MULTIPART),
        (form(field("a", b"1", '; filename="\0"')), MULTIPART),
        (form(field("a", b"1", "\r\nContent-Type: text/plain; charset=utf-7")), MULTIPART),
        (form(*[field("a", b"1")] * 65), MULTIPART),
        (b"a=%ff", FORM),
        (b"%ff=a", FORM),
        (b"a=%00", FORM),
        (b"%00=a", FORM),
        (b"a=%ed%a0%80", FORM),
        (b"a=\xff", FORM),
        (b"&".join([b"a=1"] * 1001), FORM),
    ],
)
def test_broken_forms_are_refused(body: bytes, content_type: str) -> None:
    assert refusal(body, "", content_type)


@pytest.mark.parametrize("query", ["a=%ff", "a=%00", "a=\xff", "a=\u0142", "%00", "&".join(["a"] * 1001), "a=\ud800"])
def test_broken_query_strings_are_refused(query: str) -> None:
    assert "query string" in refusal(b"", query)
    with pytest.raises(BadRequest, match="query string"):
        whole_request("GET", "/", query, {}, b"")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\xff", "not text in UTF-8"),
        (b'{"a": "\xff"}', "not text in UTF-8"),
        (b"\xed\xa0\x80", "not text in UTF-8"),
        (b"a\0b", "holds NUL"),
        (b'{"a": "\0"}', "holds NUL"),
        (b'{"a": "\\u0000"}', "a holds NUL or a lone surrogate"),
        (b'{"a": [{"\\ud800": 1}]}', "holds NUL or a lone surrogate"),
        (b'"\\udfff"', "holds NUL or a lone surrogate"),
        (b"[" * 9 + b"]" * 9, "nested deeper than 8"),
        (b'{"a":' * 9 + b"1" + b"}" * 9, "nested deeper than 8"),
        (b"[" * 100_000, "nested deeper than 8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 4300 digits"),
        (b"1e999", "out of range"),
    ],
)
@any_type
def test_what_no_input_may_hold(body: bytes, message: str, content_type: str | None) -> None:
    assert message in refusal(body, "", content_type)


@settings(deadline=None)
@given(
    body=st.one_of(st.binary(max_size=60), st.text('{}[]",:\\u0d8f1e9 NaN', max_size=40).map(str.encode)),
    query=st.text(st.characters(max_codepoint=255), max_size=20),
    content_type=st.sampled_from([None, JSON, FORM, TEXT, MULTIPART, "multipart/form-data"]),
)
def test_every_delivery_has_an_input_or_is_refused(body: bytes, query: str, content_type: str | None) -> None:
    for make in (
        lambda: input_of(query, content_type, body, MAX_DEPTH),
        lambda: whole_request("POST", "/", query, {"Content-Type": content_type or ""}, body),
    ):
        try:
            text = make()
        except BadRequest as error:
            assert error.message
        else:
            assert text is None or "\0" not in text.encode().decode()


def test_the_whole_request() -> None:
    headers = {"Content-Type": "text/plain", "X-Hub-Signature-256": "sha256=00", "webhook-signature": "v1,x"}
    text = whole_request("PUT", "/a \u00e9", "b=1&a=%C3%A9&b=2", headers, b"caf\xc3\xa9")
    assert json.loads(text) == {
        "request": {
            "method": "PUT",
            "path": "/a \u00e9",
            "query": {"b": ["1", "2"], "a": "\u00e9"},
            "query_string": "b=1&a=%C3%A9&b=2",
            "headers": {"content-type": "text/plain", "x-hub-signature-256": "sha256=00", "webhook-signature": "v1,x"},
            "body": "caf\u00e9",
            "isBase64Encoded": False,
        }
    }


@pytest.mark.parametrize("body", [b"\xff\xfe", b"a\0b", b"\xed\xa0\x80"])
def test_a_body_that_is_no_text_is_passed_in_base64(body: bytes) -> None:
    request = json.loads(whole_request("POST", "/", "", {}, body))["request"]
    assert request["isBase64Encoded"] is True
    assert base64.b64decode(request["body"]) == body


def test_an_empty_request() -> None:
    request = json.loads(whole_request("GET", "", "", {}, b""))["request"]
    assert (request["body"], request["isBase64Encoded"], request["query"]) == ("", False, {})


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authorization",
        "Content-Length", "X-Hop", "X-Auth-Token", "X-Service-Token", "X-Subject-Token", "X-Storage-Token",
        "X-Identity-Status", "X-Service-Identity-Status", "X-Roles", "X-Service-Roles", "X-Role", "X-User", "X-User-Id",
        "X-User-Name", "X-User-Domain-Id", "X-Service-User-Domain-Name", "X-Project-Id", "X-Project-Domain-Name",
        "X-Service-Project-Id", "X-Domain-Id", "X-Tenant", "X-Tenant-Id", "X-Tenant-Name", "X-Service-Catalog",
        "X-Is-Admin-Project", "OpenStack-System-Scope", "Cookie",
    ],
)  # fmt: skip
def test_headers_that_are_not_passed_on(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        headers = {"Accept": "*/*", "Connection": "close, X-HOP", spelled: "x"}
        if name == "Connection":
            headers.pop("Connection")
        assert json.loads(whole_request("GET", "/", "", headers, b""))["request"]["headers"] == {"accept": "*/*"}


@pytest.mark.parametrize("name", ["authorization", "x-github-delivery", "x-forwarded-for", "x-user-agent"])
def test_other_headers_are_passed_on(name: str) -> None:
    assert json.loads(whole_request("GET", "/", "", {name: "x"}, b""))["request"]["headers"] == {name: "x"}


@pytest.mark.parametrize("path", ["/\0", "/\ud800"])
def test_a_path_that_no_database_holds_is_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="The path"):
        whole_request("GET", path, "", {}, b"")


@pytest.mark.parametrize(
    "body",
    [
        b'["\\u0041"' + b",0" * 200_000 + b"]",
        b'["\\u0041"' + b',""' * 200_000 + b"]",
        b'["\\ud83d\\ude00"' + b",0.1" * 200_000 + b"]",
        b"[" + b"[]," * 200_000 + b"0]",
        b"[" + b"{}," * 200_000 + b"0]",
        b"[" + b"0.1," * 200_000 + b"0]",
        b"[" + b"0.1," * 200_000,
        b'["\\\\u0000"' + b",0" * 200_000 + b"]",
    ],
    ids=["escape", "texts", "pair", "arrays", "objects", "numbers", "no_json", "no_escape"],
)
def test_the_work_for_a_large_body_is_done_by_parsers_in_c(body: bytes) -> None:
    """A walk through so many values in Python keeps the process from its heartbeats."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        assert made(body) == body.decode()
    finally:
        sys.setprofile(None)
    assert calls < 5000, "a walk makes 200,000; hooks of the garbage collector make some hundred"


def test_of_many_values_some_are_looked_through_for_a_forbidden_text() -> None:
    assert "[1000] holds NUL" in refusal(b"[" + b"0," * 1000 + b'"\\u0000"]')
    for value in (b"0", b"[]", b"{}"):
        assert refusal(b"[" + (value + b",") * 200_000 + b'"\\u0000"]').startswith("The JSON holds NUL")


def test_a_field_of_the_query_changes_no_number_of_the_body() -> None:
    body = b' {"a": 1.10, "b": 12345678901234567890123, "q": 1}'
    assert made(body, "q=2&c=3") == '{"c": "3", "a": 1.10, "b": 12345678901234567890123, "q": 1}'
    assert made(b"{ }", "q=2") == '{"q": "2"}'
