"""Whom the service lets in, by the tokens of a real Keystone."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import pytest
import requests

from tests.integration.openstack.cloud import (
    NOTHING,
    Cloud,
    Web,
    assert_error,
    assert_unauthorized,
    operations,
)
from tests.integration.service import ROOT, wait_until
from tests.servers.openstack import Keystone

_names = itertools.count()


def application_credential(keystone: Keystone, **fields: Any) -> str:
    """A token by an application credential of alice's."""
    alice = keystone.state["users"]["alice"]
    body = {"application_credential": {"name": f"credential-{next(_names)}"} | fields}
    path = f"/users/{alice['id']}/application_credentials"
    made = keystone.request("POST", path, keystone.token("alice"), json=body)
    assert made.status_code == 201, made.text
    credential = {name: made.json()["application_credential"][name] for name in ("id", "secret")}
    # Its project comes with it: it may not be asked for.
    identity = {"methods": ["application_credential"], "application_credential": credential}
    url = f"{keystone.url}/auth/tokens"
    answer = requests.post(url, json={"auth": {"identity": identity}}, timeout=30)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["X-Subject-Token"])


def test_without_a_token_only_what_is_open_is_served(cloud: Cloud) -> None:
    for method, path in operations(are_open=True):
        assert cloud.send(method, path, None).status_code == 200, (method, path)
    for method, path in operations(are_open=False):
        assert_unauthorized(cloud.send(method, path, None), cloud.proxy)


def test_what_is_open_is_served_whatever_the_token(cloud: Cloud) -> None:
    before = len(cloud.proxy.asked)
    for method, path in operations(are_open=True):
        assert cloud.send(method, path, "forged").status_code == 200
    assert "forged" not in cloud.proxy.asked[before:]  # /readyz may ask about a token of its own


def test_what_is_no_token_of_keystone_s_is_refused(cloud: Cloud) -> None:
    for token in ("", "forged", "a b", "a,b", "\xfc", "gAAAAAB" + 180 * "x", 4096 * "x", 4097 * "x", 8173 * "x"):
        assert_unauthorized(cloud.get(token.encode("latin-1")), cloud.proxy)


def test_a_header_beyond_all_bounds_is_the_clients_error(cloud: Cloud) -> None:
    assert cloud.get(9000 * "x").status_code == 431


def test_who_calls_is_whom_the_token_is_of_and_headers_give_nothing(cloud: Cloud) -> None:
    headers = {
        "X-Project-Id": cloud.keystone.state["users"]["admin"]["project_id"],
        "X-Tenant-Id": cloud.keystone.state["users"]["bob"]["project_id"],
        "X-User-Id": cloud.keystone.state["users"]["admin"]["id"],
        "X-Roles": "admin",
        "X-Role": "admin",
        "X-Is-Admin-Project": "True",
        "X-Identity-Status": "Confirmed",
        "X-Service-Identity-Status": "Confirmed",
        "X-Service-Roles": "service,admin",
        "X-Project-Name": "admin",
        "OpenStack-System-Scope": "all",
    }
    alice = cloud.keystone.token("alice")
    code = {"name": "mine", "code": json.dumps({"source": "image", "image": "a/b:1"})}
    made = cloud.send("POST", "/v1/functions", alice, data=code, headers=headers)
    assert made.status_code == 201, made.text
    assert made.json()["project_id"] == cloud.keystone.state["users"]["alice"]["project_id"]
    assert_error(cloud.get(alice, "/v1/functions?all_projects=true", headers=headers), 403)
    assert_error(cloud.send("POST", "/v1/runtimes", alice, json={"image": "python3"}, headers=headers), 403)
    for method, path in operations(are_open=False):
        assert_unauthorized(cloud.send(method, path, None, headers=headers), cloud.proxy)
    assert cloud.send("DELETE", f"/v1/functions/{made.json()['id']}", alice).status_code == 204


def test_a_token_of_no_project_is_refused(cloud: Cloud) -> None:
    keystone = cloud.keystone
    admin = keystone.state["users"]["admin"]["id"]
    roles = keystone.request("GET", "/roles?name=admin", keystone.token("admin")).json()["roles"]
    path = f"/domains/default/users/{admin}/roles/{roles[0]['id']}"
    assert keystone.request("PUT", path, keystone.token("admin")).status_code == 204
    scopes: list[Any] = ["unscoped", {"system": {"all": True}}, {"domain": {"id": "default"}}]
    for scope in scopes:
        token = keystone.token("admin", scope)
        for method, path in (("GET", "/v1/functions"), ("POST", "/v1/runtimes"), ("GET", "/v1/aliases/x")):
            assert_error(cloud.send(method, path, token), 403, "project")


def test_an_application_credential_is_its_maker_in_its_project(cloud: Cloud) -> None:
    for unrestricted in (False, True):
        token = application_credential(cloud.keystone, unrestricted=unrestricted)
        assert cloud.get(token).status_code == 200
        assert_error(cloud.get(token, "/v1/functions?all_projects=true"), 403)


@pytest.mark.parametrize("allowed_first", [False, True])
def test_access_rules_hold_whatever_was_allowed_or_refused_before(cloud: Cloud, allowed_first: bool) -> None:
    rules = [
        {"path": "/v1/functions", "method": "GET", "service": "function-engine"},
        {"path": "/v1/aliases/*", "method": "GET", "service": "function-engine"},
        {"path": "/v1/jobs", "method": "GET", "service": "compute"},
    ]
    token = application_credential(cloud.keystone, access_rules=rules)
    requests_ = [
        ("GET", "/v1/functions", 200),
        ("GET", "/v1/v1/functions/", 200),  # another writing of that path
        ("GET", f"/v1/aliases/{NOTHING}", 404),
        ("HEAD", "/v1/functions", 200),  # whoever may GET
        ("POST", "/v1/functions", 401),
        ("GET", f"/v1/functions/{NOTHING}", 401),
        ("GET", "/v1/aliases", 401),
        ("GET", "/v1/jobs", 401),
        ("GET", "/v1/webhooks/%ff", 401),
        ("GET", "/v1/webhooks/%0a/v1/functions", 404),  # no route
    ]
    for method, path, status in sorted(requests_, key=lambda request: request[2], reverse=not allowed_first) * 2:
        assert cloud.send(method, path, token).status_code == status, (method, path)


def test_a_token_ends_and_no_service_token_lengthens_its_life(cloud: Cloud, patient: Web) -> None:
    token = cloud.keystone.expiring_token("alice", 10)
    assert patient.get(token).status_code == 200
    wait_until("the token has ended", lambda: patient.get(token).status_code == 401)
    assert cloud.proxy.asked.count(token) <= 2
    service_token = cloud.keystone.token("qinling")
    assert cloud.get(service_token).status_code == 200
    assert_unauthorized(cloud.get(token, headers={"X-Service-Token": service_token}), cloud.proxy)


def test_the_log_holds_no_token_and_no_password(cloud: Cloud) -> None:
    tokens = [cloud.keystone.token("alice"), cloud.keystone.token("bob", "unscoped"), "gAAAAAB" + 170 * "y"]
    for token in tokens:
        cloud.get(token)
    revoked = cloud.keystone.token("bob")
    cloud.keystone.revoke(revoked)
    assert cloud.get(revoked).status_code == 401
    log = cloud.log()
    assert '"level": "debug"' in log
    for token in (*tokens, revoked, *cloud.proxy.asked):
        assert len(token) < 40 or token[:40] not in log
    for user in cloud.keystone.state["users"].values():
        assert user["password"] not in log


def test_the_start_warns_of_nothing(cloud: Cloud) -> None:
    begin = cloud.log().split('"path": "/readyz"')[0]
    assert "Warning" not in begin
    assert "keystonemiddleware" not in begin
    assert '"level": "warning"' not in begin


def test_without_keystone_nothing_of_openstack_is_loaded(tmp_path: Any) -> None:
    unwanted = ("keystone", "swiftclient", "webob", "oslo_cache")
    code = (
        "from gevent import monkey; monkey.patch_all(); import sys, app; "
        f"print([name for name in sys.modules if name.startswith({unwanted})])"
    )
    environ = {"AUTH_MODE": "noauth", "PACKAGE_STORAGE": "local"}
    environ |= {"VAR_DIR": str(tmp_path), "REDIS_URL": f"unix://{tmp_path}/none"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
