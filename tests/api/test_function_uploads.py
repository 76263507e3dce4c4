"""Hostile uploads of functions are refused, and leave nothing."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qinling_falcon.resources import forms
from qinling_falcon.storage.packages import ORPHAN_AGE_S
from tests.api.client import Client, assert_error, multipart, package


def test_an_upload_in_chunks_is_refused(client: Client) -> None:
    extras = {"wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked", "CONTENT_LENGTH": ""}
    answer = client.form("POST", "/v1/functions", multipart([("name", "n")]), extras=extras)
    assert_error(answer, 411, "content-length")


def test_an_upload_above_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    extras = {"CONTENT_LENGTH": str(1 << 40)}
    assert_error(client.form("POST", "/v1/functions", [("package", b"x")], extras=extras), 413, "large")


def test_a_package_above_the_limit_is_refused(client: Client) -> None:
    big = b"PK" + bytes(client.settings.max_package_size)
    assert_error(client.upload(package=big), 413, "package")
    assert client.stored() == set()


def test_a_field_above_the_limit_is_refused(client: Client) -> None:
    assert_error(client.upload(description="x" * (client.settings.max_body_size + 1)), 413, "description")
    assert client.stored() == set()


def test_many_fields_together_stay_below_the_limit(client: Client) -> None:
    half = client.settings.max_body_size // 2 + 1
    assert_error(client.upload(description="x" * half, entry="x" * half), 413)


def test_many_parts_are_refused(client: Client) -> None:
    parts: list[tuple[str, str | bytes]] = [("name", "n")] * 100
    assert_error(client.form("POST", "/v1/functions", parts), 400, "parts")


@pytest.mark.parametrize("data", [b"", b"PK but no zip" * 10, package()[:-20]])
def test_what_is_no_zip_is_refused(client: Client, data: bytes) -> None:
    assert_error(client.upload(package=data), 400, "zip")
    assert client.stored() == set()


def test_a_package_that_waits_too_long_for_the_rest_of_its_form_is_not_taken(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the sweep could delete the package before its row is written."""
    times = iter([0.0, ORPHAN_AGE_S / 2 + 1])
    monkeypatch.setattr(forms, "time", SimpleNamespace(monotonic=lambda: next(times)))
    assert_error(client.upload(), 400, "Send the package as the last part")
    assert client.stored() == set()


def test_two_packages_in_one_form_are_refused(client: Client) -> None:
    parts = [*client.parts(), ("package", package())]
    assert_error(client.form("POST", "/v1/functions", parts), 400, "two parts")
    assert client.stored() == set()


@pytest.mark.parametrize("cut", [1, 10, 60, 200])
def test_a_form_that_breaks_off_is_refused(client: Client, cut: int) -> None:
    body = multipart(client.parts())[:-cut]
    answer = client.form("POST", "/v1/functions", body)
    # Without the last dashes alone the form is complete for all but the strictest reader.
    assert answer.status_code in ((201, 400) if cut == 1 else (400,)), answer.text
    assert len(client.stored()) == (1 if answer.status_code == 201 else 0)


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(client: Client) -> None:
    body = multipart(client.parts(), end=False)
    extras = {"CONTENT_LENGTH": str(len(body) + 5000)}
    assert_error(client.form("POST", "/v1/functions", body, extras=extras), 400)
    assert client.stored() == set()


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ("multipart/form-data; boundary=" + "x" * 71, 400),
        ("multipart/form-data; boundary=other", 400),
        ("multipart/form-data; boundary=\u00e4", 400),
        ("multipart/mixed; boundary=a-boundary", 415),
        ("text/plain", 415),
        (None, 415),
    ],
)
def test_a_form_with_a_wrong_type_is_refused(client: Client, content_type: str | None, status: int) -> None:
    assert_error(client.send("POST", "/v1/functions", multipart(client.parts()), content_type), status)
    assert client.stored() == set()


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Disposition: form-data",
        b'Content-Disposition: form-data; name=""',
        b"X-Other: 1",
        b'Content-Disposition: form-data; name="\xff\xfe"',
        b'Content-Disposition: form-data; name="name"\r\nContent-Transfer-Encoding: base64',
        b'Content-Disposition: form-data; name="' + b"x" * 20000 + b'"',
    ],
)
def test_a_part_with_broken_headers_is_refused(client: Client, head: bytes) -> None:
    body = b"--a-boundary\r\n" + head + b"\r\n\r\nvalue\r\n--a-boundary--\r\n"
    assert_error(client.form("POST", "/v1/functions", body), 400)


def test_a_field_that_is_not_utf_8_is_refused(client: Client) -> None:
    assert_error(client.upload(name=b"\xff\xfe"), 400, "utf-8")
    form = client.send("POST", "/v1/functions", b"name=%ff", "application/x-www-form-urlencoded")
    assert_error(form, 400, "form")
