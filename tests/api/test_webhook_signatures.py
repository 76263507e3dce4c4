"""Signed deliveries to webhooks, and repeated ones: each delivery id has one execution."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.models import database
from qinling_falcon.models.tables import Webhook
from qinling_falcon.resources.services import Services
from tests.api.client import Client, assert_error
from tests.api.hooks import GITHUB, SECRET, Hook

MakeHook = Callable[..., Hook]
STANDARD = "whsec_" + base64.b64encode(b"a key of thirty-two random bytes").decode()


def standard(hook: Hook, body: bytes = b"{}", message: str = "msg_1", at: float | None = None) -> testing.Result:
    """A delivery as Standard Webhooks signs it."""
    timestamp = str(int(time.time() if at is None else at))
    key = base64.b64decode(STANDARD.removeprefix("whsec_"))
    digest = hmac.digest(key, b".".join((message.encode(), timestamp.encode(), body)), hashlib.sha256)
    headers = {
        "webhook-id": message, "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }  # fmt: skip
    return hook.send(body=body, headers=headers)


def stripe(hook: Hook, body: bytes) -> testing.Result:
    """A delivery as Stripe signs it."""
    timestamp = str(int(time.time()))
    digest = hmac.digest(SECRET.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hex()
    return hook.send(body=body, headers={"Stripe-Signature": f"t={timestamp},v1={digest}"})


def test_each_form_is_verified_and_gives_the_id(make_hook: MakeHook) -> None:
    github = make_hook(signature=GITHUB)
    by_standard = make_hook(signature={"scheme": "standard", "secrets": [STANDARD]})
    by_stripe = make_hook(signature={"scheme": "stripe", "secrets": [SECRET]})
    assert github.send_signed(**{"X-GitHub-Delivery": "g-1"}).status_code == 202
    assert standard(by_standard).status_code == 202
    assert stripe(by_stripe, b'{"id": "evt_1"}').status_code == 202
    ids = [hook.deliveries()[0]["delivery_id"] for hook in (github, by_standard, by_stripe)]
    assert ids == ["g-1", "msg_1", "evt_1"]


def test_a_delivery_without_a_right_signature_makes_no_execution(make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB)
    for answer in (hook.send(json={}), hook.send_signed(secret="another secret")):
        assert_error(answer, 401, "The signature of this delivery is not valid.")
        assert SECRET not in answer.text
    assert hook.results() == ["bad_signature", "bad_signature"]
    assert hook.executions() == []


def test_no_refused_signature_makes_an_execution(make_hook: MakeHook) -> None:
    """Of a stale delivery, of another webhook's secret, of a secret that was rotated out, and of a changed body."""
    other = make_hook(signature={"scheme": "github", "secrets": ["the secret of another webhook"]})
    assert other.send_signed(secret="the secret of another webhook").status_code == 202
    github = make_hook(signature=GITHUB)
    github.change(signature={"scheme": "github", "secrets": ["the new secret"]})
    timed = make_hook(signature={"scheme": "standard", "secrets": [STANDARD]})
    digest = hmac.digest(b"the new secret", b'{"a": 1}', hashlib.sha256).hex()
    answers = [
        github.send_signed(secret="the secret of another webhook"),
        github.send_signed(secret=SECRET),
        github.send(body=b'{"a": 1', headers={"X-Hub-Signature-256": f"sha256={digest}"}),
        standard(timed, at=time.time() - 301),
        standard(timed, at=time.time() + 301),
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert (github.executions(), timed.executions()) == ([], [])
    assert (github.results(), timed.results()) == (["bad_signature"] * 3, ["stale"] * 2)


def test_the_size_is_checked_before_the_signature_and_the_signature_before_the_rate_limit(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook
) -> None:
    client = client_with(max_input_size=1024, async_max_input_size=1024)
    hook = Hook(client, services, make_hook(signature=GITHUB, rate_limit={"per_minute": 1, "burst": 1}).id)
    assert hook.send_signed().status_code == 202
    statuses = [hook.send(body=b"x" * size).status_code for size in (1025, 1024)]
    assert [*statuses, hook.send_signed().status_code] == [413, 401, 429]
    assert hook.results() == ["accepted", "too_large", "bad_signature", "rate_limited"]


@pytest.mark.parametrize("sync", [False, True])
def test_the_size_that_the_webhook_takes_is_checked_before_its_signature_and_its_rate_limit(
    client_with: Callable[..., Client], services: Services, make_hook: MakeHook, sync: bool
) -> None:
    limit, other = 1024, 2048
    client = client_with(max_input_size=limit if sync else other, async_max_input_size=other if sync else limit)
    made = make_hook(sync=sync, signature=GITHUB, rate_limit={"per_minute": 1, "burst": 1})
    hook = Hook(client, services, made.id)
    refused = [hook.send(body=b"x" * (limit + 1)), hook.send_signed(b"x" * (limit + 1))]
    for answer in refused:
        assert_error(answer, 413, f"larger than {limit} bytes")
    answers = [hook.send_signed(b"x" * limit).status_code for _ in range(2)]
    assert answers == [200 if sync else 202, 429], "those that were too large have not used the rate limit"
    assert hook.results() == ["too_large", "too_large", "accepted", "rate_limited"]


def test_a_stale_signature_is_told_apart_in_the_log_only(make_hook: MakeHook) -> None:
    hook = make_hook(signature={"scheme": "standard", "tolerance_s": 60, "secrets": [STANDARD]})
    stale, bad = standard(hook, at=time.time() - 90), standard(hook, message="a.b")
    assert stale.json["faultstring"] == bad.json["faultstring"]
    assert hook.results() == ["stale", "bad_signature"]
    hook.change(signature={"scheme": "standard", "tolerance_s": 600})
    assert standard(hook, at=time.time() - 90).status_code == 202, "the secrets stay"


def test_a_stranger_does_not_erase_the_log(make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB)
    ids = [f"d-{number}" for number in range(60)]
    for one in ids:
        assert hook.send_signed(**{"X-GitHub-Delivery": one}).status_code == 202
    for _ in range(150):
        assert hook.send().status_code == 401
    log = hook.deliveries()
    assert [row["delivery_id"] for row in log if row["result"] == "accepted"] == ids[:9:-1]
    assert len(log) == 100


def test_a_refused_signature_takes_no_token(make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB, rate_limit={"per_minute": 1, "burst": 1})
    assert [hook.send(json={}).status_code for _ in range(3)] == [401] * 3
    assert hook.send_signed().status_code == 202


def test_secrets_rotate_without_a_gap(make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB)
    shown = hook.change(signature={"scheme": "github", "secrets": ["the new secret", SECRET]})
    assert shown["signature"] == {"scheme": "github", "tolerance_s": 300, "secrets": 2}
    assert [hook.send_signed(secret=one).status_code for one in (SECRET, "the new secret")] == [202, 202]
    hook.change(signature={"scheme": "github", "secrets": ["the new secret"]})
    assert [hook.send_signed(secret=one).status_code for one in (SECRET, "the new secret")] == [401, 202]


def test_secrets_are_encrypted_and_never_shown(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB)
    with database.reading():
        stored = Webhook.get_by_id(hook.id).signature_secrets
    assert SECRET not in stored
    shown = client.simulate_get(f"/v1/webhooks/{hook.id}")
    assert SECRET not in shown.text
    assert shown.json["signature"] == {"scheme": "github", "tolerance_s": 300, "secrets": 1}


@pytest.mark.parametrize(
    ("fields", "field", "word"),
    [
        ({"signature": {"scheme": "md5", "secrets": ["x"]}}, "signature", "scheme must be one of"),
        ({"signature": {"scheme": "github"}}, "signature", "secrets are required"),
        ({"signature": {"scheme": "github", "secrets": []}}, "signature", "must not be empty"),
        ({"signature": {"scheme": "github", "secrets": SECRET}}, "signature", "must be a list"),
        ({"signature": {"scheme": "standard", "secrets": ["whsec_short"]}}, "signature", "base64"),
        ({"signature": {"scheme": "github", "secrets": ["x"] * 11}}, "signature", "at most 10"),
        ({"signature": {"scheme": "github", "secrets": ["x"], "tolerance_s": 0}}, "signature", "tolerance_s must be"),
        ({"signature": {"scheme": "github", "secrets": ["x"], "colour": 1}}, "signature", "nothing else"),
        ({"signature": "github"}, "signature", "must be an object"),
        ({"rate_limit": {"burst": 3}}, "rate_limit", "per_minute is required"),
        ({"rate_limit": {"per_minute": 0}}, "rate_limit", "per_minute must be"),
        ({"rate_limit": {"per_minute": 1, "burst": -1}}, "rate_limit", "burst must be"),
        ({"methods": []}, "methods", "must be a list of HTTP methods"),
        ({"methods": ["FETCH"]}, "methods", "must be a list of HTTP methods"),
        ({"methods": "POST"}, "methods", "must be a list"),
        ({"cors": ["https://shop.example/"]}, "cors", "without a path"),
        ({"cors": "https://shop.example"}, "cors", "must be a list"),
        ({"sync": "perhaps"}, "sync", "true or false"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    client: Client, make_hook: MakeHook, function_id: str, fields: dict[str, Any], field: str, word: str
) -> None:
    hook = make_hook()
    before = client.simulate_get(f"/v1/webhooks/{hook.id}").json
    answers = [
        client.simulate_post("/v1/webhooks", json={"function_id": function_id, **fields}),
        client.simulate_put(f"/v1/webhooks/{hook.id}", json=fields),
    ]
    for answer in answers:
        assert_error(answer, 400, word)
        assert set(answer.json["errors"]) == {field}
        assert SECRET not in answer.text
    assert client.simulate_get(f"/v1/webhooks/{hook.id}").json == before


def test_nulls_change_nothing(client: Client, make_hook: MakeHook) -> None:
    hook = make_hook(signature=GITHUB, rate_limit={"per_minute": 60}, cors=["https://shop.example"], methods=["PUT"])
    before = client.simulate_get(f"/v1/webhooks/{hook.id}").json
    assert before["rate_limit"] == {"per_minute": 60, "burst": 60}
    assert hook.change(signature=None, rate_limit=None, cors=None, methods=None, enabled=None, sync=None) == before
    cleared = hook.change(signature={"scheme": "none"}, rate_limit={"per_minute": None}, cors=[])
    assert (cleared["signature"], cleared["rate_limit"], cleared["cors"]) == (None, None, None)


def test_without_keys_no_secret_is_stored(
    client_with: Callable[..., Client], services: Services, function_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database.secret_keys(), "_keys", {})
    vars(database.secret_keys()).pop("_fernets", None)
    answer = client_with().simulate_post("/v1/webhooks", json={"function_id": function_id, "signature": GITHUB})
    assert_error(answer, 501, "SECRET_KEYS")


def test_the_id_of_a_signed_delivery_counts_only_if_the_signature_is_right(make_hook: MakeHook) -> None:
    hook = make_hook(signature={"scheme": "stripe", "secrets": [SECRET]})
    body = json.dumps({"id": "evt_1"}).encode()
    assert hook.send(body=body, headers={"Stripe-Signature": "t=1,v1=00"}).status_code == 401
    first = stripe(hook, body)
    assert first.status_code == 202
    assert stripe(hook, body).json == first.json


def test_unreadable_secrets_are_read_once_and_told_to_the_owner(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = make_hook(signature=GITHUB)
    with database.reading():
        stored = Webhook.get_by_id(hook.id).signature_secrets
    damaged = stored[:-4] + "AAA="
    database.transact(lambda: Webhook.update(signature_secrets=damaged).where(Webhook.id == hook.id).execute())
    answers = [hook.send_signed()]
    monkeypatch.setattr(database.engine(), "open_reader", lambda: pytest.fail("the database was read"))
    answers += [hook.send_signed() for _ in range(3)]
    monkeypatch.undo()
    for answer in answers:
        assert_error(answer, 503, "can't take this delivery now")
    assert "SECRET_KEYS" in hook.deliveries()[0]["reason"]
    assert caplog.messages.count("the secrets of a webhook can't be read") == 1
    hook.change(signature=GITHUB)
    assert hook.send_signed().status_code == 202
