"""Signatures of deliveries: which are accepted, and why others are refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qinling_falcon.webhooks import signing
from qinling_falcon.webhooks.signatures import (
    Scheme,
    SignatureRefused,
    check_secret,
    hmac_keys_of,
    unverified_delivery_id,
    verify,
)

NOW = 1_731_705_121
OTHER = "whsec_" + base64.b64encode(b"another secret, as long").decode()
Headers = dict[str, str]


def sign_standard(secret: str, body: bytes, at: int) -> Headers:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"msg_1.{at}.".encode(), hashlib.sha256)
    mac.update(body)
    signature = "v1," + base64.b64encode(mac.digest()).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": str(at), "webhook-signature": signature}


def sign_github(secret: str, body: bytes, at: int) -> Headers:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"X-Hub-Signature-256": f"sha256={digest}", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"}


def sign_stripe(secret: str, body: bytes, at: int) -> Headers:
    mac = hmac.new(secret.encode(), f"{at}.".encode(), hashlib.sha256)
    mac.update(body)
    return {"Stripe-Signature": f"t={at},v1={mac.hexdigest()},v0=00"}


SIGN: dict[Scheme, Callable[[str, bytes, int], Headers]] = {
    Scheme.STANDARD: sign_standard,
    Scheme.GITHUB: sign_github,
    Scheme.STRIPE: sign_stripe,
}
IDS = {
    Scheme.STANDARD: "msg_1",
    Scheme.GITHUB: "72d3162e-cc78-11e3-81ab-4c9367dc0958",
    Scheme.STRIPE: "evt_1",
}
SIGNATURE = {
    Scheme.STANDARD: "webhook-signature",
    Scheme.GITHUB: "X-Hub-Signature-256",
    Scheme.STRIPE: "Stripe-Signature",
}
SECRET = "whsec_" + base64.b64encode(b"a secret of twenty-four.").decode()
BODY = b'{"id": "evt_1", "name": "\xc3\xa9"}'
every_scheme = pytest.mark.parametrize("scheme", list(Scheme))
with_a_timestamp = pytest.mark.parametrize("scheme", [Scheme.STANDARD, Scheme.STRIPE])


def check(
    scheme: Scheme, headers: Headers, body: bytes = BODY, secrets: Sequence[str] = (SECRET,), now_s: float = NOW
) -> str | None:
    by_name = {name.lower(): value for name, value in headers.items()}
    return verify(scheme, hmac_keys_of(scheme, secrets), 300, lambda name: by_name.get(name.lower()), body, now_s)


def refusal(
    scheme: Scheme, headers: Headers, body: bytes = BODY, secrets: Sequence[str] = (SECRET,), now_s: float = NOW
) -> SignatureRefused:
    with pytest.raises(SignatureRefused) as caught:
        check(scheme, headers, body, secrets, now_s)
    assert caught.value.reason.endswith(".")
    return caught.value


def test_the_example_of_standard_webhooks() -> None:
    headers = {
        "webhook-id": "msg_loFOjxBNrRLzqYUf",
        "webhook-timestamp": "1731705121",
        "webhook-signature": "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    }
    body = b'{"event_type":"ping","data":{"success":true}}'
    for secret in ("whsec_plJ3nmyCDGBKInavdOK15jsl", "plJ3nmyCDGBKInavdOK15jsl"):
        check_secret(Scheme.STANDARD, secret)
        assert check(Scheme.STANDARD, headers, body, [secret]) == "msg_loFOjxBNrRLzqYUf"


def test_the_example_of_github() -> None:
    headers = {"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"}
    secret = "It's a Secret to Everybody"
    check_secret(Scheme.GITHUB, secret)
    assert check(Scheme.GITHUB, headers, b"Hello, World!", [secret]) is None


def test_a_signature_of_stripe_made_by_openssl() -> None:
    signature = "d95c6b7477fbd7e9f90b1b0ef5f9c7ac25abca5382460e0d988c2b2a5b71b990"
    headers = {"Stripe-Signature": f"t=1700000000,v1={signature}"}
    body = b'{"id":"evt_test_webhook","object":"event"}'
    check_secret(Scheme.STRIPE, "whsec_test_secret")
    assert check(Scheme.STRIPE, headers, body, ["whsec_test_secret"], 1_700_000_000) == "evt_test_webhook"


def test_what_the_service_signs_is_accepted() -> None:
    assert check(Scheme.STANDARD, signing.headers("msg_9", NOW, BODY, SECRET)) == "msg_9"


@every_scheme
def test_the_delivery_id(scheme: Scheme) -> None:
    assert check(scheme, SIGN[scheme](SECRET, BODY, NOW)) == IDS[scheme]


@every_scheme
def test_another_secret_is_refused(scheme: Scheme) -> None:
    refused = refusal(scheme, SIGN[scheme](OTHER, BODY, NOW))
    assert "matches none of the webhook's secrets" in refused.reason
    assert not refused.stale
    assert SECRET not in refused.reason


@every_scheme
def test_a_webhook_without_secrets_accepts_nothing(scheme: Scheme) -> None:
    refusal(scheme, SIGN[scheme](SECRET, BODY, NOW), secrets=[])


@every_scheme
def test_during_a_rotation_both_secrets_are_accepted_and_then_one(scheme: Scheme) -> None:
    old, new = SIGN[scheme](OTHER, BODY, NOW), SIGN[scheme](SECRET, BODY, NOW)
    for headers in (old, new):
        assert check(scheme, headers, secrets=[SECRET, OTHER]) == IDS[scheme]
        assert check(scheme, headers, secrets=[OTHER, SECRET]) == IDS[scheme]
    refusal(scheme, old, secrets=[SECRET])


@every_scheme
@pytest.mark.parametrize("body", [BODY[:-1], b"", BODY + b"\n", BODY.replace(b"evt_1", b"evt_2"), b"." + BODY])
def test_another_body_is_refused(scheme: Scheme, body: bytes) -> None:
    assert "matches none" in refusal(scheme, SIGN[scheme](SECRET, BODY, NOW), body).reason


@every_scheme
def test_a_missing_header_is_named(scheme: Scheme) -> None:
    headers = SIGN[scheme](SECRET, BODY, NOW)
    for name in headers.keys() - {"X-GitHub-Delivery"}:
        for without in ({other: headers[other] for other in headers if other != name}, {**headers, name: ""}):
            assert refusal(scheme, without).reason == f"The header {name} is missing."


@with_a_timestamp
@pytest.mark.parametrize("age_s", [-300, -299, 0, 299, 300])
def test_a_timestamp_within_the_tolerance(scheme: Scheme, age_s: int) -> None:
    assert check(scheme, SIGN[scheme](SECRET, BODY, NOW - age_s)) == IDS[scheme]


@with_a_timestamp
@pytest.mark.parametrize(
    ("age_s", "where"), [(301, "301 s ago"), (-301, "301 s in the future"), (NOW, f"{NOW} s ago")]
)
def test_a_stale_timestamp_is_told_apart(scheme: Scheme, age_s: int, where: str) -> None:
    refused = refusal(scheme, SIGN[scheme](SECRET, BODY, NOW - age_s))
    assert refused.stale
    assert where in refused.reason


@with_a_timestamp
def test_a_stale_timestamp_with_a_wrong_signature_is_a_wrong_signature(scheme: Scheme) -> None:
    assert not refusal(scheme, SIGN[scheme](OTHER, BODY, NOW - 1000)).stale


@with_a_timestamp
def test_the_timestamp_is_signed(scheme: Scheme) -> None:
    signed = SIGN[scheme](SECRET, BODY, NOW - 1000)
    headers = {name: value.replace(str(NOW - 1000), str(NOW)) for name, value in signed.items()}
    assert not refusal(scheme, headers).stale


BAD_TIMESTAMPS = [
    "-1", "+1", "1.5", f"{NOW}.0", "1e9", "0x10", " 1", "1 ", "1\n", "1_000", "\u0661\u0662", "\u00b2", "9" * 16,
    "9" * 4000, "nan", "inf", "now", f"{NOW};{NOW}",
]  # fmt: skip


@pytest.mark.parametrize("text", BAD_TIMESTAMPS)
def test_a_malformed_timestamp_is_refused(text: str) -> None:
    headers = {**sign_standard(SECRET, BODY, NOW), "webhook-timestamp": text}
    assert "must be a whole number" in refusal(Scheme.STANDARD, headers).reason
    signed = sign_stripe(SECRET, BODY, NOW)["Stripe-Signature"]
    refusal(Scheme.STRIPE, {"Stripe-Signature": signed.replace(str(NOW), text)})


@pytest.mark.parametrize("message_id", ["a.b", "a b", "a" * 256, "\u00e9", "a\n", f"msg.{NOW}"])
def test_a_malformed_id_of_standard_webhooks_is_refused(message_id: str) -> None:
    """A dot in the id would let a sender move the borders between id, timestamp and body."""
    headers = signing.headers(message_id, NOW, BODY, SECRET)
    assert "webhook-id must be" in refusal(Scheme.STANDARD, headers).reason


def test_several_signatures_and_versions() -> None:
    headers = sign_standard(SECRET, BODY, NOW)
    right = headers["webhook-signature"]
    wrong = sign_standard(OTHER, BODY, NOW)["webhook-signature"]
    for text in (f"{wrong} {right}", f"{right} {wrong}", f"v1a,abc {right}", f"v2,x  {right} "):
        assert check(Scheme.STANDARD, {**headers, "webhook-signature": text}) == "msg_1"
    refusal(Scheme.STANDARD, {**headers, "webhook-signature": f"{wrong} {wrong}"})
    for text in (right.replace("v1,", "v1a,"), right.replace("v1,", "v2,"), right.removeprefix("v1,"), "v1", " "):
        reason = refusal(Scheme.STANDARD, {**headers, "webhook-signature": text}).reason
        assert "no signature of version v1" in reason
    for text in (f"{wrong},{right}", right[:-1], right + "=", right.lower(), "v1,", "v1,\u00e9"):
        assert "matches none" in refusal(Scheme.STANDARD, {**headers, "webhook-signature": text}).reason


def test_the_forms_of_githubs_signature() -> None:
    right = sign_github(SECRET, BODY, NOW)["X-Hub-Signature-256"]
    assert check(Scheme.GITHUB, {"X-Hub-Signature-256": right[:7] + right[7:].upper()}) is None
    digits = right.removeprefix("sha256=")
    for text in (right[:-1], right + "0", digits, f"sha1={digits}", f"{right},{right}", "sha256=" + "\u0660" * 64):
        assert "64 hexadecimal digits" in refusal(Scheme.GITHUB, {"X-Hub-Signature-256": text}).reason


@pytest.mark.parametrize("text", ["", "a b", "a" * 256, "\u00e9", "a\n"])
def test_githubs_id_can_be_unusable(text: str) -> None:
    assert check(Scheme.GITHUB, {**sign_github(SECRET, BODY, NOW), "X-GitHub-Delivery": text}) is None


def test_the_forms_of_stripes_signature() -> None:
    right = sign_stripe(SECRET, BODY, NOW)["Stripe-Signature"].split(",")[1]
    wrong = sign_stripe(OTHER, BODY, NOW)["Stripe-Signature"].split(",")[1]
    for text in (f"t={NOW},{wrong},{right}", f"{right}, t={NOW}", f"t={NOW},v0=x,{right},v2=y,nonsense,="):
        assert check(Scheme.STRIPE, {"Stripe-Signature": text}) == "evt_1"
    for text in (right, f"t={NOW},t={NOW},{right}", f"t={NOW},{right},t={NOW},{right}", f"T={NOW},{right}"):
        assert "one timestamp" in refusal(Scheme.STRIPE, {"Stripe-Signature": text}).reason
    for text in (f"t={NOW}", f"t={NOW},{right.replace('v1', 'v0')}", f"t={NOW},v1"):
        refusal(Scheme.STRIPE, {"Stripe-Signature": text})


@pytest.mark.parametrize(
    "body",
    [b"", b"text", b"[1]", b'"evt_1"', b"{}", b'{"id": 7}', b'{"id": null}', b'{"id": ""}', b'{"id": "\\u0000"}',
     b'{"id": "\\ud800"}', b"[" * 100_000, b"\xff"],
)  # fmt: skip
def test_without_an_event_id_a_digest_is_the_id(body: bytes) -> None:
    first, again, later = (check(Scheme.STRIPE, sign_stripe(SECRET, body, at), body) for at in (NOW, NOW, NOW + 1))
    assert first == again != later
    assert first is not None and first.startswith("sha256-")


any_text = st.one_of(
    st.text(max_size=60),
    st.text("tv1=,. 0sha256", max_size=60),
    st.sampled_from(BAD_TIMESTAMPS),
    st.builds(lambda at: f"t={at},v1=0", st.integers()),
    st.builds(str, st.one_of(st.integers(), st.floats())),
)


@settings(deadline=None)
@given(
    scheme=st.sampled_from(Scheme),
    headers=st.dictionaries(
        st.sampled_from(
            ["webhook-id", "webhook-timestamp", "webhook-signature", "X-Hub-Signature-256", "X-GitHub-Delivery",
             "Stripe-Signature"]
        ),
        any_text,
    ),
    body=st.binary(max_size=30),
)  # fmt: skip
@example(Scheme.STANDARD, {"webhook-id": "\ud800", "webhook-timestamp": "1", "webhook-signature": "v1,\ud800"}, b"")
@example(Scheme.STANDARD, {"webhook-id": "a", "webhook-timestamp": "1", "webhook-signature": "v1,\ud800"}, b"")
@example(Scheme.STRIPE, {"Stripe-Signature": "t=1,v1=\ud800"}, b"")
def test_no_header_is_accepted_by_chance_or_raises_another_exception(
    scheme: Scheme, headers: Headers, body: bytes
) -> None:
    refusal(scheme, headers, body)


@settings(deadline=None)
@given(
    scheme=st.sampled_from(Scheme),
    name=st.sampled_from(["webhook-id", "webhook-timestamp", *SIGNATURE.values()]),
    text=any_text,
    body=st.one_of(st.binary(max_size=30), st.builds(lambda value: json.dumps(value).encode(), st.text())),
)
def test_a_changed_header_leaves_an_id_or_a_refusal(scheme: Scheme, name: str, text: str, body: bytes) -> None:
    headers = SIGN[scheme](SECRET, body, NOW)
    with contextlib.suppress(SignatureRefused):
        found = check(scheme, {**headers, name: text}, body)
        assert headers.get(name, text) == text or name == "webhook-id" or name not in headers
        assert found is None or (found.isascii() and 1 <= len(found) <= 255)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"webhook-id": "msg_1"}, "msg_1"),
        ({"webhook-id": "a.b", "X-GitHub-Delivery": "g"}, "a.b"),
        ({"X-GitHub-Delivery": "g"}, "g"),
        ({"webhook-id": "", "X-GitHub-Delivery": "g"}, "g"),
        ({"webhook-id": "a b"}, None),
        ({"webhook-id": "a" * 256}, None),
        ({"webhook-id": "\u00e9"}, None),
    ],
)
def test_the_id_of_a_delivery_without_a_signature(headers: Headers, expected: str | None) -> None:
    assert unverified_delivery_id(headers.get) == expected


@pytest.mark.parametrize(
    ("scheme", "text"),
    [
        (Scheme.STANDARD, SECRET),
        (Scheme.STANDARD, SECRET.removeprefix("whsec_")),
        (Scheme.STANDARD, base64.b64encode(b"x" * 64).decode()),
        (Scheme.GITHUB, "x"),
        (Scheme.GITHUB, " p\u00e4ss w\u00f6rd "),
        (Scheme.STRIPE, "whsec_anything_at_all"),
    ],
)
def test_secrets(scheme: Scheme, text: str) -> None:
    check_secret(scheme, text)
    assert check(scheme, SIGN[scheme](text, BODY, NOW), secrets=[text]) == IDS[scheme]


@pytest.mark.parametrize(
    ("scheme", "text", "message"),
    [
        *((scheme, "", "must not be empty") for scheme in Scheme),
        *((scheme, "x" * 513, "at most 512 characters") for scheme in Scheme),
        *((scheme, "\ud800", "lone surrogate") for scheme in Scheme),
        (Scheme.STANDARD, "whsec_", "16 to 256 bytes in base64"),
        (Scheme.STANDARD, "whsec_" + base64.b64encode(b"x" * 15).decode(), "16 to 256 bytes in base64"),
        (Scheme.STANDARD, base64.b64encode(b"x" * 257).decode(), "16 to 256 bytes in base64"),
        (Scheme.STANDARD, "not base64, but long enough", "16 to 256 bytes in base64"),
        (Scheme.STANDARD, SECRET + "\n", "16 to 256 bytes in base64"),
        (Scheme.STANDARD, "whsec_" + "\u00e9" * 32, "16 to 256 bytes in base64"),
    ],
)
def test_texts_that_are_no_secrets(scheme: Scheme, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check_secret(scheme, text)
    assert len(text) < 7 or text not in str(caught.value)


@every_scheme
def test_a_long_header_is_refused_before_it_is_taken_apart(scheme: Scheme) -> None:
    headers = SIGN[scheme](SECRET, BODY, NOW)
    name = SIGNATURE[scheme]
    joint = " " if scheme is Scheme.STANDARD else ","
    filler = f"{joint}v2,{'A' * 60}" if scheme is Scheme.STANDARD else f"{joint}v2={'0' * 64}"
    headers[name] += filler * (4096 // len(filler) + 1)
    assert "more than 4096 characters" in refusal(scheme, headers).reason


@with_a_timestamp
def test_more_signatures_than_any_sender_makes_are_refused(scheme: Scheme) -> None:
    headers = SIGN[scheme](SECRET, BODY, NOW)
    name, wrong = SIGNATURE[scheme], " v1,AAAA" if scheme is Scheme.STANDARD else ",v1=00"
    few = {**headers, name: headers[name] + wrong * 19}
    assert check(scheme, few) == IDS[scheme]
    assert "more than 20 signatures" in refusal(scheme, {**headers, name: headers[name] + wrong * 20}).reason
