"""Schemathesis on the document, in process: what it makes up is answered as the document says.

`make fuzz` does more of it, with other requests each time; FUZZ_EXAMPLES is how many for each operation, and FUZZ_SEED
the seed of a run, which prints it, to have the same requests again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest

from qinling_falcon import api
from qinling_falcon.auth.identity import Identity
from qinling_falcon.errors import Unauthorized
from qinling_falcon.models.scope import Context
from qinling_falcon.observability.health import Check
from qinling_falcon.resources.services import Services
from tests.api.client import Client
from tests.openapi.campaign import Outcome, run
from tests.openapi.exceptions import SERVER_ERRORS
from tests.openapi.world import things

MORE = int(os.environ.get("FUZZ_EXAMPLES", "0"))
SEED = int(os.environ.get("FUZZ_SEED") or (random.getrandbits(32) if MORE else 1))
TOKEN = "a-good-token"


class KnowsOneToken:
    """Stands for Keystone: real ones are asked in tests/integration/openstack."""

    def authenticate(self, environ: Mapping[str, Any]) -> Identity:
        if environ.get("HTTP_X_AUTH_TOKEN") != TOKEN:
            raise Unauthorized("The token is not valid.", challenge="Keystone uri='https://keystone.example'")
        return Identity(Context("default", is_admin=True, roles=("admin",)))

    def checks(self) -> dict[str, Check]:
        return {}


def config(examples: int, *, coverage: bool) -> dict[str, Any]:
    """Without NUL: the document says in words that it is refused."""
    generation = {"max-examples": MORE or examples, "deterministic": not MORE, "database": "none", "allow-x00": False}
    return {
        "seed": SEED,
        "workers": 1,
        "continue-on-failure": True,
        "max-failures": 100_000,
        "generation": generation | {"no-shrink": True},
        "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "5xx"]}},
        "phases": {"coverage": {"enabled": coverage or bool(MORE)}, "stateful": {"enabled": bool(MORE)}},
    }


def told(outcome: Outcome) -> str:
    return "\n\n".join(f"{check}, {label}: {failure}" for (check, label), failure in outcome.failures.items())


def look_at(outcome: Outcome) -> None:
    assert not outcome.failures, told(outcome)
    assert not outcome.errors
    assert {answered for answered in outcome.statuses if answered[1] >= 500} <= SERVER_ERRORS.keys()


def served(outcome: Outcome) -> set[str]:
    """The operations that have done what they are for at least once; 200 alone may have been OPTIONS."""
    gets = {label for label, status in outcome.statuses if status == 200 and label.startswith(("GET", "PUT"))}
    return gets | {label for label, status in outcome.statuses if status in (201, 202, 204)}


@pytest.mark.timeout(300 + 60 * MORE)
def test_what_is_made_up_is_answered_as_the_document_says(services: Services) -> None:
    print(f"seed {SEED}")
    client = Client(api.create_app(services), services.settings)
    outcome = run(client.app, things(client), config(6, coverage=True))
    look_at(outcome)
    operations = {label for label, _ in outcome.statuses}
    documented = {
        f"{method.upper()} {path}"
        for path, item in client.documented()["paths"].items()
        for method in item.keys() - {"parameters"}
    }
    assert operations == documented - {"GET /openapi.json"}  # which schemathesis leaves out
    # Requests come through to what the operations are for, and are not all refused before.
    assert len(served(outcome)) > 0.8 * len(operations), operations - served(outcome)


@pytest.mark.timeout(300 + 60 * MORE)
def test_with_tokens_it_is_so_too_and_none_is_served_without_one(services: Services) -> None:
    settings = replace(services.settings, auth_mode="keystone")
    with mock.patch.object(api, "make_authenticator", lambda settings, policy: KnowsOneToken()):
        app = api.create_app(replace(services, settings=settings))
    client = Client(app, settings, headers={"X-Auth-Token": TOKEN})
    # `ignored_auth` can't run in process, where schemathesis 4.32 sends what WSGI has not: a run without a token does.
    without = config(3, coverage=False)
    without["checks"] |= {"ignored_auth": {"enabled": False}}
    made = things(client)
    outcome = run(app, made, without | {"auth": {"openapi": {"token": {"api_key": TOKEN}}}})
    look_at(outcome)
    assert len(served(outcome)) > 0.5 * len({label for label, _ in outcome.statuses})
    without["checks"] |= {"positive_data_acceptance": {"enabled": False}}
    outcome = run(app, made, without)
    look_at(outcome)
    # Senders of webhooks have no token.
    guarded = {answered for answered in outcome.statuses if " /v1/" in answered[0] and "/invoke" not in answered[0]}
    assert len({label for label, _ in guarded}) > 40
    assert {status for _, status in guarded} == {401}
