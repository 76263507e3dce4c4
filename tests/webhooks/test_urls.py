"""The URLs of callbacks: what is accepted, and how it is called."""

from __future__ import annotations

import pytest

from qinling_falcon.webhooks.urls import parse_url


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("http://hooks.example", (False, "hooks.example", 80, "hooks.example", "/")),
        ("https://hooks.example", (True, "hooks.example", 443, "hooks.example", "/")),
        ("HTTPS://Hooks.Example:443/a/b?x=1&y", (True, "hooks.example", 443, "hooks.example", "/a/b?x=1&y")),
        ("https://hooks.example:8443?q", (True, "hooks.example", 8443, "hooks.example:8443", "/?q")),
        ("http://127.0.0.1:65535/", (False, "127.0.0.1", 65535, "127.0.0.1:65535", "/")),
        ("http://[2606:4700::1111]:81/x", (False, "2606:4700::1111", 81, "[2606:4700::1111]:81", "/x")),
        ("http://a_b-c.example./", (False, "a_b-c.example.", 80, "a_b-c.example.", "/")),
        ("http://hooks.example/a%20b@c:d", (False, "hooks.example", 80, "hooks.example", "/a%20b@c:d")),
    ],
)
def test_a_url_is_taken_apart(url: str, parts: tuple[object, ...]) -> None:
    parsed = parse_url(url)
    assert (parsed.is_secure, parsed.host, parsed.port, parsed.authority, parsed.target) == parts


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "printable ASCII"),
        ("hooks.example", "starts with http"),
        ("//hooks.example", "starts with http"),
        ("ftp://hooks.example", "starts with http"),
        ("file:///etc/passwd", "starts with http"),
        ("http:hooks.example", "starts with http"),
        ("http://", "has a host"),
        ("http:///path", "has a host"),
        ("http://:80/", "has a host"),
        ("http://user@hooks.example/", "no user"),
        ("http://user:password@hooks.example/", "no user"),
        ("http://@hooks.example/", "no user"),
        ("http://hooks.example/#part", "no fragment"),
        ("http://hooks.example#", "no fragment"),
        ("http://hooks.example:0/", "port from 1 to 65535"),
        ("http://hooks.example:/", "port from 1 to 65535"),
        ("http://hooks.example:65536/", "port from 1 to 65535"),
        ("http://hooks.example:http/", "port from 1 to 65535"),
        ("http://[::1/", "brackets"),
        ("http://[::1%25eth0]/", "DNS name or an IP address"),
        ("http://[v1.x]/", "DNS name or an IP address"),
        ("http://[127.0.0.1]/", "DNS name|brackets"),
        ("http://a[2606:4700::1111]/", "DNS name or an IP address"),
        ("http://[2606:4700::1111]b/", "DNS name or an IP address"),
        ("http://hooks..example/", "DNS name"),
        ("http://-hooks.example/", "DNS name"),
        (f"http://{'a' * 64}.example/", "DNS name"),
        (f"http://{'a.' * 127}example/", "DNS name"),
        ("http://hooks,example/", "DNS name"),
        ("http://hooks.example\\@other.example/", "printable ASCII"),
        ("http://hooks.example/a b", "printable ASCII"),
        ("http://hooks.example/\r\nX: y", "printable ASCII"),
        ("http://hooks.example/\t", "printable ASCII"),
        ("http://hooks.example/ü", "printable ASCII"),
        ("http://höoks.example/", "printable ASCII"),
        ("http://hooks.example/" + "a" * 2048, "2048 characters"),
    ],
)
def test_other_urls_are_refused_with_a_reason(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_url(url)
