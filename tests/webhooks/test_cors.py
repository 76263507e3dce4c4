"""Cross-origin requests to webhooks."""

from __future__ import annotations

import pytest

from qinling_falcon.webhooks.cors import check_origin, cors_headers, preflight_headers

PAGE, OTHER = "https://example.com", "http://localhost:3000"
PREFLIGHT_VARY = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"


@pytest.mark.parametrize(
    "text",
    ["*", PAGE, OTHER, "http://a", "https://a.b-c.example:8443", "http://[::1]:8080", "https://127.0.0.1",
     "https://xn--bcher-kva.example", "capacitor://localhost", "chrome-extension://abcdef", "https://example.com:80"],
)  # fmt: skip
def test_origins(text: str) -> None:
    check_origin(text)


@pytest.mark.parametrize(
    "text",
    ["", "null", "example.com", "//example.com", "https://", "https://example.com/", "https://example.com/path",
     "https://example.com?x", "https://user@example.com", "https://*.example.com", "https://Example.com",
     "HTTPS://example.com", "https://example.com:", "https://example.com:0", "https://example.com:080",
     "https://example.com:65536", "https://example.com:443", "http://example.com:80", "https://b\u00fccher.example",
     "https://example.com\n", " https://example.com", "https://a b", "https://a,https://b", "https://a..b",
     "https://" + "a" * 250, "**", "https://example.com:\u0661"],
)  # fmt: skip
def test_texts_that_browsers_send_as_no_origin(text: str) -> None:
    with pytest.raises(ValueError, match="must "):
        check_origin(text)


def test_without_cors_there_are_no_headers() -> None:
    assert cors_headers([], PAGE) == {}
    assert preflight_headers([], PAGE, "POST", None, ["POST"]) == {}


def test_an_allowed_origin_is_named() -> None:
    for origin in (PAGE, OTHER):
        assert cors_headers([PAGE, OTHER], origin) == {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": "*",
            "Vary": "Origin",
        }


@pytest.mark.parametrize("origin", [None, "", "null", f"{PAGE}.evil", "http://example.com", "*", f"{PAGE}/"])
def test_another_origin_gets_no_permission_and_caches_are_told(origin: str | None) -> None:
    assert cors_headers([PAGE], origin) == {"Vary": "Origin"}
    assert preflight_headers([PAGE], origin, "POST", "x-a", ["POST"]) == {"Vary": PREFLIGHT_VARY}


@pytest.mark.parametrize("origin", [None, "null", PAGE])
def test_any_origin(origin: str | None) -> None:
    expected = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
    assert cors_headers(["*"], origin) == cors_headers([PAGE, "*"], origin) == expected


def test_credentials_are_never_allowed() -> None:
    for allowed in (["*"], [PAGE]):
        for made in (cors_headers(allowed, PAGE), preflight_headers(allowed, PAGE, "POST", None, ["POST"])):
            assert "Access-Control-Allow-Credentials" not in made


def test_a_preflight() -> None:
    assert preflight_headers([PAGE], PAGE, "PUT", "content-type,x-a", ["POST", "PUT"]) == {
        "Access-Control-Allow-Origin": PAGE,
        "Access-Control-Allow-Methods": "POST, PUT",
        "Access-Control-Allow-Headers": "content-type,x-a",
        "Access-Control-Max-Age": "600",
        "Vary": PREFLIGHT_VARY,
    }


@pytest.mark.parametrize("method", [None, "DELETE", "post", "", "POST, PUT"])
def test_a_preflight_for_another_method(method: str | None) -> None:
    made = preflight_headers([PAGE], PAGE, method, None, ["POST", "PUT"])
    assert made == {"Access-Control-Allow-Origin": PAGE, "Vary": PREFLIGHT_VARY}


@pytest.mark.parametrize("headers", [None, "", "x\r\nSet-Cookie: a=b", "x: y", "\u00e9", "x" * 1025])
def test_a_preflight_with_malformed_header_names(headers: str | None) -> None:
    assert "Access-Control-Allow-Headers" not in preflight_headers(["*"], PAGE, "POST", headers, ["POST"])


@pytest.mark.parametrize(("method", "allowed"), [("POST", "*"), ("PROPFIND", "*"), (None, None), ("", None)])
def test_a_preflight_for_a_webhook_with_any_method(method: str | None, allowed: str | None) -> None:
    assert preflight_headers([PAGE], PAGE, method, None, ["*"]).get("Access-Control-Allow-Methods") == allowed
