"""Signatures in the form of Standard Webhooks, and the depth of callbacks."""

from __future__ import annotations

import base64

import pytest

from qinling_falcon.webhooks.depth import read_depth
from qinling_falcon.webhooks.signing import headers, is_secret


def test_the_example_of_the_specification() -> None:
    """The values that the reference libraries of Standard Webhooks test with."""
    made = headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}', "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_without_a_secret_there_is_no_signature() -> None:
    assert headers("id", 1, b"", None).keys() == {"webhook-id", "webhook-timestamp"}


@pytest.mark.parametrize("size", range(20, 70))
def test_a_secret_has_24_to_64_bytes(size: int) -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(size))).decode()
    assert is_secret(secret) == (24 <= size <= 64)


@pytest.mark.parametrize(
    "text",
    ["", "whsec_", "A" * 32, "whsec-" + "A" * 32, "whsec_" + "A" * 33, "whsec_" + "_" * 32, "whsec_" + "A" * 32 + "\n"],
)
def test_other_texts_are_no_secrets(text: str) -> None:
    assert not is_secret(text)


@pytest.mark.parametrize(
    ("header", "depth"),
    [
        (None, 0), ("", 0), ("0", 0), ("1", 1), ("2", 2), ("3", 3), ("4", 3), ("9" * 5000, 3), ("0002", 2),
        ("-1", 0), ("1.5", 0), ("x", 0), ("²", 0), ("1, 2", 0),
    ],
)  # fmt: skip
def test_the_depth_of_a_request(header: str | None, depth: int) -> None:
    assert read_depth(header) == depth
