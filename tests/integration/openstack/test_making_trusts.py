"""Trusts are made with what the caller may now, and leave nothing behind when they come too late."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest
import requests

from tests.integration.openstack.cloud import Cloud, Web, assert_away
from tests.integration.openstack.proxy import says
from tests.integration.service import package, wait_until
from tests.servers.openstack import Keystone

LATE = "was made when nobody waited for it"


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
    answers = [keystone.request("GET", f"/OS-TRUST/trusts/{trust_id}", token) for trust_id in ids]
    found = [answer.json()["trust"] for answer in answers if answer.status_code != 404]  # deleted since
    return {trust["id"]: sorted(role["name"] for role in trust["roles"]) for trust in found}


def test_a_trust_that_is_made_when_nobody_waits_any_more_is_deleted(cloud: Cloud, alice: str) -> None:
    before = trusts_of(cloud.keystone, alice).keys()
    goes_on = threading.Event()

    def new_ones() -> set[str]:
        return trusts_of(cloud.keystone, alice).keys() - before  # those of earlier tests may be deleted meanwhile

    def hold(handler: BaseHTTPRequestHandler) -> bool:
        if _asks_for_a_trust(handler):
            goes_on.wait(60)
        return False

    with cloud.proxy.answering(hold):
        late_before = cloud.log().count(LATE)
        assert_away(make(cloud, alice))
        assert not new_ones()
        goes_on.set()
        wait_until("it was made", lambda: cloud.log().count(LATE) > late_before)
    wait_until("it is deleted", lambda: not new_ones())


def test_late_answers_keep_no_others_from_their_trusts(cloud: Cloud, alice: str) -> None:
    def late() -> int:
        return cloud.log().count(LATE)

    before, late_before = trusts_of(cloud.keystone, alice), late()
    goes_on, held = threading.Event(), []

    def hold(handler: BaseHTTPRequestHandler) -> bool:
        if _asks_for_a_trust(handler):
            held.append(handler)
            goes_on.wait(60)
        return False

    with ThreadPoolExecutor(15) as pool, cloud.proxy.answering(hold):
        for made in list(pool.map(lambda _: make(cloud, alice), range(15))):
            assert_away(made)
    try:
        made = make(cloud, alice)
        assert made.status_code == 201, made.text
        assert len(held) > 10  # of which keystoneauth keeps connections
    finally:
        goes_on.set()
    mine = {trust_of(cloud, made)}
    wait_until("all were made", lambda: late() - late_before == len(held))
    # What Keystone can't delete at once, with all of this to do, a sweep of `pool` deletes. It begins with one.
    cloud.service.stop("pool")
    cloud.service.start_pool()
    wait_until("they are deleted", lambda: trusts_of(cloud.keystone, alice).keys() - before.keys() == mine, 90)


def test_no_trust_is_asked_for_when_nobody_waits_any_more(cloud: Cloud, alice: str) -> None:
    goes_on, questions = threading.Event(), []

    def refuse(handler: BaseHTTPRequestHandler) -> bool:
        if not _asks_for_a_trust(handler):
            return False
        questions.append(handler)
        goes_on.wait(60)
        return says(404, '{"error": {"code": 404, "message": "Could not find role: x."}}')(handler)

    with cloud.proxy.answering(refuse):
        assert_away(make(cloud, alice))
        goes_on.set()
        wait_until("it is given up", lambda: "no trust is asked for, as nobody waits" in cloud.log())
    assert len(questions) == 1


def _asks_for_a_trust(handler: BaseHTTPRequestHandler) -> bool:
    return handler.command == "POST" and handler.path.endswith("/OS-TRUST/trusts")


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
