"""Trusts are made with what the caller may now, and leave nothing behind when they come too late."""

from __future__ import annotations

import sqlite3
import threading
from http.server import BaseHTTPRequestHandler

import pytest
import requests

from tests.integration.openstack.cloud import Cloud, Web, assert_away
from tests.integration.service import package, wait_until
from tests.servers.openstack import Keystone


@pytest.fixture
def alice(cloud: Cloud) -> str:
    return cloud.keystone.token("alice")


def make(cloud: Cloud, token: str, web: Web | None = None) -> requests.Response:
    fields = {"name": "f", "runtime_id": cloud.service.runtime(), "code": '{"source": "package"}'}
    files = {"package": ("f.zip", package(main="def main(): ..."), "application/zip")}
    return (web or cloud).send("POST", "/v1/functions", token, data=fields, files=files)


def trusts_of(keystone: Keystone, token: str) -> dict[str, list[str]]:
    """Alice's trusts, and the roles of each."""
    path = f"/OS-TRUST/trusts?trustor_user_id={keystone.state['users']['alice']['id']}"
    ids = [trust["id"] for trust in keystone.request("GET", path, token).json()["trusts"]]
    found = [keystone.request("GET", f"/OS-TRUST/trusts/{trust_id}", token).json()["trust"] for trust_id in ids]
    return {trust["id"]: sorted(role["name"] for role in trust["roles"]) for trust in found}


def test_a_trust_that_is_made_when_nobody_waits_any_more_is_deleted(cloud: Cloud, alice: str) -> None:
    before = trusts_of(cloud.keystone, alice)
    goes_on = threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command == "POST" and handler.path.endswith("/OS-TRUST/trusts"):
            goes_on.wait(60)
        return False

    with cloud.proxy.answering(hold):
        assert_away(make(cloud, alice))
        assert trusts_of(cloud.keystone, alice) == before
        goes_on.set()
        wait_until("it was made", lambda: "was made when nobody waited for it" in cloud.log())
    wait_until("it is deleted", lambda: trusts_of(cloud.keystone, alice) == before)


def test_who_has_lost_a_role_makes_a_trust_with_the_others(cloud: Cloud, patient: Web) -> None:
    keystone, admin = cloud.keystone, cloud.keystone.token("admin")
    role = keystone.request("POST", "/roles", admin, json={"role": {"name": "auditor"}}).json()["role"]["id"]
    about = keystone.state["users"]["alice"]
    granted = f"/projects/{about['project_id']}/users/{about['id']}/roles/{role}"
    try:
        assert keystone.request("PUT", granted, admin).status_code == 204
        token = keystone.token("alice")
        with_it = make(cloud, token, patient)
        assert with_it.status_code == 201, with_it.text
        assert keystone.request("DELETE", granted, admin).status_code == 204
        without_it = make(cloud, token, patient)
        assert without_it.status_code == 201, without_it.text
        trusts = trusts_of(keystone, keystone.token("alice"))
        assert trusts[trust_of(cloud, without_it)] == ["member", "reader"]
    finally:
        keystone.request("DELETE", f"/roles/{role}", admin)


def trust_of(cloud: Cloud, made: requests.Response) -> str:
    with sqlite3.connect(cloud.service.var_dir / "qinling.db") as db:
        return str(db.execute("SELECT trust_id FROM functions WHERE id = ?", [made.json()["id"]]).fetchone()[0])
