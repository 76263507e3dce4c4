"""The service's own user and its project are deleted, and made again by the same names, while it runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import requests

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.trusts import Trusts
from qinling_falcon.models import database, trusts
from qinling_falcon.models.migrate import migrate
from qinling_falcon.models.scope import Context
from qinling_falcon.settings_environment import read_settings
from tests.integration.openstack.cloud import Cloud, assert_away, assert_unauthorized
from tests.integration.openstack.proxy import VALIDATION
from tests.integration.openstack.test_making_trusts import make, trust_of
from tests.servers.openstack import Keystone

_numbers = itertools.count()


@dataclass
class Account:
    """A user of the service's kind, alone in a project."""

    keystone: Keystone
    name: str
    ids: dict[str, str]

    @property
    def settings(self) -> dict[str, str]:
        return {"OS_USERNAME": self.name, "OS_PASSWORD": f"{self.name}pw", "OS_PROJECT_NAME": self.name}

    def token(self) -> str:
        password = {"user": {"id": self.ids["user"], "password": f"{self.name}pw"}}
        identity = {"methods": ["password"], "password": password}
        auth = {"identity": identity, "scope": {"project": {"id": self.ids["project"]}}}
        answer = requests.post(f"{self.keystone.url}/auth/tokens", json={"auth": auth}, timeout=30)
        assert answer.status_code == 201, answer.text
        return str(answer.headers["X-Subject-Token"])

    def make(self, what: str) -> None:
        """Make the user or the project, and give it its role."""
        admin = self.keystone.token("admin")
        about = {"name": self.name, "domain_id": "default"} | ({"password": f"{self.name}pw"} if what == "user" else {})
        made = self.keystone.request("POST", f"/{what}s", admin, json={what: about})
        assert made.status_code == 201, made.text
        self.ids[what] = made.json()[what]["id"]
        if len(self.ids) == 2:
            role = self.keystone.request("GET", "/roles?name=service", admin).json()["roles"][0]["id"]
            path = f"/projects/{self.ids['project']}/users/{self.ids['user']}/roles/{role}"
            assert self.keystone.request("PUT", path, admin).status_code == 204

    def delete(self, what: str) -> None:
        path = f"/{what}s/{self.ids[what]}"
        assert self.keystone.request("DELETE", path, self.keystone.token("admin")).status_code == 204


@pytest.fixture
def account(keystone: Keystone) -> Iterator[Account]:
    account = Account(keystone, f"account-{next(_numbers)}", {})
    account.make("project")
    account.make("user")
    yield account
    account.delete("user")
    account.delete("project")


@pytest.mark.parametrize("what", ["user", "project"])
def test_a_service_that_was_deleted_and_made_again_logs_in_anew(cloud: Cloud, account: Account, what: str) -> None:
    keystone = cloud.keystone
    with cloud.web(**account.settings) as web:
        alice = keystone.token("alice")
        assert web.get(alice).status_code == 200
        assert make(cloud, alice, web).status_code == 201  # so that both its log-ins have been
        account.delete(what)
        assert_away(web.get(keystone.token("alice")))
        account.make(what)
        assert web.get(keystone.token("alice")).status_code == 200
        assert_unauthorized(web.get("forged"), cloud.proxy)
        made = make(cloud, alice, web)
        assert made.status_code == 201, made.text
        path = f"/OS-TRUST/trusts/{trust_of(cloud, made)}"
        assert keystone.request("GET", path, account.token()).status_code == 200


def test_no_token_makes_the_service_log_in(cloud: Cloud, account: Account) -> None:
    """Whatever it is: forged, or of a user or project that was deleted."""
    keystone, other = cloud.keystone, Account(cloud.keystone, f"account-{next(_numbers)}", {})
    log_ins = []

    def note(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command == "POST" and handler.path.startswith(VALIDATION):
            log_ins.append(handler.path)
        return False

    with cloud.web(**account.settings) as web:
        assert web.get(keystone.token("alice")).status_code == 200
        with cloud.proxy.answering(note):
            for what in ("user", "project"):
                for missing in {"user", "project"} - other.ids.keys():
                    other.make(missing)
                token = other.token()
                other.delete(what)
                del other.ids[what]
                assert_unauthorized(web.get(token), cloud.proxy)
            for token in ("forged", account.ids["user"], "gAAAAAB" + 180 * "x"):
                assert_unauthorized(web.get(token), cloud.proxy)
            assert web.get(keystone.token("alice")).status_code == 200
    assert log_ins == []


def test_a_trust_is_not_taken_for_deleted_since_the_services_project_was(
    keystone: Keystone, account: Account, tmp_path: Path
) -> None:
    settings = read_settings(keystone.settings() | account.settings | {"VAR_DIR": str(tmp_path)})
    about, admin = keystone.state["users"]["alice"], keystone.token("admin")
    member = keystone.request("GET", "/roles?name=member", admin).json()["roles"][0]["id"]
    alice = Identity(
        Context(about["project_id"], False, about["id"], ("member",)), keystone.token("alice"), role_ids=(member,)
    )
    service = Trusts(settings)
    migrate(settings)
    database.connect(settings)
    try:
        trust_id = service.make(alice)
        account.delete("project")
        account.make("project")
        trusts.doom_unnamed(trust_id)
        assert service.sweep() == [trust_id]
    finally:
        database.disconnect()
    assert keystone.request("GET", f"/OS-TRUST/trusts/{trust_id}", account.token()).status_code == 404
