"""The HTTP answers of synchronous webhooks."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qinling_falcon.webhooks.cors import cors_headers
from qinling_falcon.webhooks.responses import Failure, Response, respond

PAGE = "https://example.com"
JSON, TEXT = "application/json", "text/plain; charset=utf-8"


def result(output: str) -> str:
    return f'{{"duration": 0.123, "output": {output}}}'


def answer(output: Any, cors: dict[str, str] | None = None) -> Response:
    made = respond("success", result(json.dumps(output, ensure_ascii=False)), cors or {})
    assert isinstance(made, Response), made
    return made


def malformed(output: Any) -> str:
    made = respond("success", result(json.dumps(output)), {})
    assert isinstance(made, Failure), made
    assert made.status == 502
    assert made.message.startswith("The function's answer is malformed: ")
    return made.message


def headers(given: Any, **more: Any) -> dict[str, str]:
    return answer({"statusCode": 200, "headers": given, **more}).headers


@pytest.mark.parametrize(
    "output",
    [
        "null", "true", "7", "1.10", "12345678901234567890123", '"\u00e9"', "[1, 2]", "{}", '{"a": "\\u0000"}',
        '{"statusCode": null}', '{"statusCode": true}', '{"statusCode": "OK"}', '{"statusCode": 200.5}',
        '{"statusCode": "-1"}', '{"statusCode": ""}', '{"statusCode": [200]}', '{"a": {"statusCode": 204}}',
        '[{"statusCode": 204}]', '{"body": "x", "headers": {}}', "9" * 5000, "[" * 500 + "]" * 500, '", "output": 1}"',
    ],
)  # fmt: skip
def test_any_other_value_is_sent_as_json_unchanged(output: str) -> None:
    expected = Response(200, {"Content-Type": JSON, "Content-Security-Policy": "sandbox"}, output.encode())
    assert respond("success", result(output), {}) == expected


@pytest.mark.parametrize("text", [None, "", "{}", '{"duration": 0.5}'])
def test_a_result_without_output_is_null(text: str | None) -> None:
    made = respond("success", text, {})
    assert isinstance(made, Response)
    assert (made.status, made.body) == (200, b"null")


@pytest.mark.parametrize("status", [200, 201, 302, 404, 418, 500, 599, "200", "404"])
def test_the_status_is_the_functions(status: object) -> None:
    assert answer({"statusCode": status}).status == int(str(status))


@pytest.mark.parametrize("status", [-1, 0, 99, 100, 101, 199, 600, 999, 10**30, "0", "99", "600"])
def test_another_status_is_malformed(status: object) -> None:
    assert "statusCode must be 200 to 599" in malformed({"statusCode": status})


@pytest.mark.parametrize(
    ("more", "body", "content_type"),
    [
        ({}, b"", TEXT),
        ({"body": None}, b"", TEXT),
        ({"body": ""}, b"", TEXT),
        ({"body": "caf\u00e9"}, "caf\u00e9".encode(), TEXT),
        ({"body": "\0", "isBase64Encoded": False}, b"\0", TEXT),
        ({"body": "YQ==", "isBase64Encoded": None}, b"YQ==", TEXT),
        ({"body": {"a": "\u00e9"}}, '{"a": "\u00e9"}'.encode(), JSON),
        ({"body": [1, None]}, b"[1, null]", JSON),
        ({"body": 0}, b"0", JSON),
        ({"body": False}, b"false", JSON),
        ({"body": "AP8=", "isBase64Encoded": True}, b"\0\xff", "application/octet-stream"),
        ({"body": "", "isBase64Encoded": True}, b"", "application/octet-stream"),
        ({"isBase64Encoded": True}, b"", TEXT),
    ],
)
def test_bodies_and_their_types(more: dict[str, Any], body: bytes, content_type: str) -> None:
    made = answer({"statusCode": 200, **more})
    assert (made.body, made.headers["Content-Type"]) == (body, content_type)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"isBase64Encoded": 1}, "isBase64Encoded must be"),
        ({"isBase64Encoded": "true"}, "isBase64Encoded must be"),
        *(
            ({"isBase64Encoded": True, "body": body}, "body is not base64")
            for body in ("YQ", "Y Q==", "\u00e9", "YQ==\n", "-_==", 7, {"a": 1}, ["YQ=="], True)
        ),
        ({"body": "\ud800"}, "lone surrogate"),
        ({"body": ["\ud800"]}, "lone surrogate"),
        ({"headers": []}, "headers must be an object"),
        ({"headers": "a: b"}, "headers must be an object"),
        *(
            ({"headers": {"X-A": value}}, "the value of header X-A must be")
            for value in (None, True, 1.5, {}, [None], ["a", True], [["a"]])
        ),
        *(
            ({"headers": {"X-A": value}}, "a character that no header may hold")
            for value in ("a\r\nSet-Cookie: b=c", "a\n", "\0", "\x7f", "\u0142", ["a", "b\r"])
        ),
        *(
            ({"headers": {name: "a"}}, "a name that is not allowed")
            for name in ("", "a b", "a:", "a\r\nb", "\u00e9", "a\0", "(a)", "a\n")
        ),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "a name twice"),
        ({"headers": {f"X-{n}": "a" * 1000 for n in range(17)}}, "more than 16384 bytes"),
    ],
)
def test_malformed_answers(more: dict[str, Any], message: str) -> None:
    assert message in malformed({"statusCode": 200, **more})


@pytest.mark.parametrize("output", ['{"statusCode": ' + "9" * 5000 + "}", '{"statusCode":' + "[" * 100_000])
def test_an_answer_that_cannot_be_read_is_malformed(output: str) -> None:
    made = respond("success", result(output), {})
    assert isinstance(made, Failure)
    assert (made.status, "malformed" in made.message) == (502, True)


@pytest.mark.parametrize("status", [204, 205, 304])
def test_statuses_without_a_body(status: int) -> None:
    for body in ({}, {"body": None}, {"body": ""}):
        made = answer({"statusCode": status, **body})
        assert (made.body, made.headers) == (b"", {"Content-Security-Policy": "sandbox"})
    for body in ({"body": "x"}, {"body": {}}, {"body": "YQ==", "isBase64Encoded": True}):
        assert "can't have a body" in malformed({"statusCode": status, **body})


def test_the_functions_headers() -> None:
    given = {"content-type": "text/html", "Location": "/x", "X-Number": 7, "Link": ["<a>", "<b>"], "X-L": " caf\xe9\t"}
    assert headers(given) == {
        "content-type": "text/html",
        "Location": "/x",
        "X-Number": "7",
        "Link": "<a>, <b>",
        "X-L": "caf\xe9",
        "Content-Security-Policy": "sandbox",
    }
    assert headers(None) == headers({}) == {"Content-Type": TEXT, "Content-Security-Policy": "sandbox"}


@pytest.mark.parametrize(
    "name",
    [
        "Set-Cookie", "Content-Length", "Transfer-Encoding", "Server", "Date", "Connection", "Keep-Alive", "Upgrade",
        "TE", "Trailer", "Proxy-Authenticate", "X-Request-Id", "X-Execution-Id", "X-Content-Type-Options",
        "Content-Security-Policy-Report-Only", "Strict-Transport-Security", "Clear-Site-Data", "Alt-Svc",
        "Service-Worker-Allowed", "X-Hop", "Other-Hop", "X-Accel-Redirect", "X-Accel-Buffering", "X-Sendfile",
        "X-LIGHTTPD-send-file", "X-Reproxy-URL",
    ],
)  # fmt: skip
def test_headers_that_a_function_cannot_set(name: str) -> None:
    for spelled in (name, name.lower(), name.upper()):
        given = {spelled: "x", "X-A": "a"} | ({} if name == "Connection" else {"connection": "close, x-HOP,other-hop"})
        assert headers(given) == {"X-A": "a", "Content-Type": TEXT, "Content-Security-Policy": "sandbox"}


def test_every_answer_is_sandboxed() -> None:
    for name in ("Content-Security-Policy", "content-security-policy"):
        assert headers({name: "default-src *"}) == {"Content-Type": TEXT, "Content-Security-Policy": "sandbox"}


def test_a_webhook_with_cors_replaces_the_functions_cors_headers() -> None:
    given = {"access-control-allow-origin": "*", "Access-Control-Allow-Credentials": "true", "vary": "Accept"}
    cors = cors_headers([PAGE], PAGE)
    expected = {"Content-Type": TEXT, "Content-Security-Policy": "sandbox", **cors, "Vary": "Accept, Origin"}
    assert answer({"statusCode": 200, "headers": given}, cors).headers == expected
    assert answer({"statusCode": 200}, cors).headers["Vary"] == "Origin"
    assert answer(7, cors).headers == {"Content-Type": JSON, "Content-Security-Policy": "sandbox", **cors}
    of_any = answer({"statusCode": 200, "headers": given}, cors_headers(["*"], None)).headers
    assert (of_any["Vary"], of_any["Access-Control-Allow-Origin"]) == ("Accept", "*")
    assert "Access-Control-Allow-Credentials" not in of_any


def test_a_webhook_without_cors_passes_the_functions_cors_headers_on() -> None:
    assert headers({"Access-Control-Allow-Origin": "*", "Vary": "Accept"}) == {
        "Access-Control-Allow-Origin": "*",
        "Vary": "Accept",
        "Content-Type": TEXT,
        "Content-Security-Policy": "sandbox",
    }


@pytest.mark.parametrize(
    ("status", "output", "expected", "message"),
    [
        ("failed", '"Function execution timeout"', 504, "within its timeout"),
        ("failed", '"secret: 12345"', 502, "The function failed"),
        ("failed", '"Function execution timeout of secret"', 502, "The function failed"),
        ("error", '"Function execution failed."', 502, "The platform could not run"),
        ("error", '"Function execution timeout"', 502, "The platform could not run"),
        ("cancelled", '"Function execution was cancelled"', 502, "cancelled"),
        ("dead", "null", 502, "did not run to its end"),
        ("running", "null", 502, "did not run to its end"),
    ],
)
def test_failed_executions(status: str, output: str, expected: int, message: str) -> None:
    made = respond(status, result(output), cors_headers([PAGE], PAGE))
    assert isinstance(made, Failure)
    assert made.status == expected
    assert message in made.message
    assert "secret" not in made.message


def test_a_failure_without_a_result() -> None:
    assert respond("error", None, {}) == respond("error", result('"x"'), {})


json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)

header_names = st.one_of(st.text("Set-Cokie:\r\n ", max_size=10), st.sampled_from(["Set-Cookie", "Vary", "X-A"]))


@settings(deadline=None)
@given(
    status=st.one_of(st.integers(150, 650), st.sampled_from([204, "200"]), json_values),
    given_headers=st.one_of(json_values, st.dictionaries(header_names, json_values, max_size=3)),
    body=st.one_of(json_values, st.binary(max_size=9).map(lambda data: base64.b64encode(data).decode())),
    is_base64=st.one_of(st.booleans(), json_values),
)
def test_every_answer_can_be_sent(status: Any, given_headers: Any, body: Any, is_base64: Any) -> None:
    output = {"statusCode": status, "headers": given_headers, "body": body, "isBase64Encoded": is_base64}
    made = respond("success", result(json.dumps(output)), {})
    if isinstance(made, Response):
        assert 200 <= made.status <= 599
        assert not (made.body and made.status in (204, 205, 304))
        for name, value in made.headers.items():
            assert name.isascii() and name and not set(name) & set("\r\n: ")
            assert not set(value.encode("latin-1")) & set(b"\r\n\0")
            assert name.lower() != "set-cookie"
        assert made.headers["Content-Security-Policy"] == "sandbox"
    else:
        assert made.status == 502
