"""Keystone stopped, hung, broken or wrongly named: callers get 503 while they wait, and the service mends by itself."""

from __future__ import annotations

import contextlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.integration.openstack.cloud import Cloud, Web, assert_away, assert_error
from tests.integration.openstack.proxy import VALIDATION, Answer, drips, says
from tests.integration.service import free_port, wait_until


def test_stopped_and_started_again(cloud: Cloud, patient: Web) -> None:
    alice, unknown = cloud.keystone.token("alice"), cloud.keystone.token("alice")
    assert patient.get(alice).status_code == 200
    with cloud.keystone.stopped():
        assert_away(patient.get(unknown))
        assert_error(patient.get(None), 401)
        assert patient.get(alice).status_code == 200
        wait_until("it is not ready", lambda: patient.get(None, "/readyz").status_code == 503)
        assert set(patient.get(None, "/readyz").json()["errors"]) == {"keystone"}
        assert patient.get(None, "/healthz").status_code == 200
    assert patient.get(unknown).status_code == 200
    wait_until("it is ready", lambda: patient.get(None, "/readyz").status_code == 200)


def test_hung_and_going_on(cloud: Cloud, patient: Web) -> None:
    alice, unknown = cloud.keystone.token("alice"), cloud.keystone.token("alice")
    assert patient.get(alice).status_code == 200
    with ThreadPoolExecutor(16) as pool:
        with cloud.keystone.hung():
            # More than are asked about at once, of one token and of many.
            waiting = [pool.submit(patient.get, token) for token in [*8 * [unknown], *map(str, range(8))]]
            assert patient.get(alice).status_code == 200
            assert any(not answer.done() for answer in waiting)
            for answer in waiting:
                assert_away(answer.result())
            assert_error(patient.get(None, "/readyz"), 503, "keystone")
        wait_until("it is asked again", lambda: patient.get(unknown).status_code == 200)


TOKEN = {"methods": ["password"], "user": {"id": "x"}, "expires_at": "2099-01-01T00:00:00Z"}
BROKEN: dict[str, Answer] = {
    "error": says(500, '{"error": {"code": 500}}'),
    "unavailable page": says(503, "<html>be right back</html>", Content_Type="text/html"),
    "forbidden": says(403, '{"error": {"code": 403, "message": "You are not authorized"}}'),
    "html": says(200, "<html>hello</html>", Content_Type="text/html"),
    "no json": says(200, '{"token": '),
    "empty": says(200, ""),
    "other json": says(200, "[]"),
    "no token": says(200, "{}"),
    "empty token": says(200, '{"token": {}}'),
    "not found page": says(404, "<html>nothing</html>", Content_Type="text/html"),
    "null": says(200, '{"token": null}'),
    "no end": says(200, json.dumps({"token": {"user": {"id": "x"}}})),
    "no date": says(200, json.dumps({"token": TOKEN | {"expires_at": "tomorrow"}})),
    "odd project": says(200, json.dumps({"token": TOKEN | {"project": ["x"]}})),
    "odd roles": says(200, json.dumps({"token": TOKEN | {"project": {"id": "x"}, "roles": [7]}})),
    "odd catalogue": says(
        200, json.dumps({"token": TOKEN | {"project": {"id": "x"}, "roles": [], "catalog": [{"endpoints": 7}]}})
    ),
    "elsewhere": says(302, "", Location="http://127.0.0.1:9/v3/auth/tokens"),
    "dripping": drips,
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_answers_about_tokens_and_good_ones_again(cloud: Cloud, name: str) -> None:
    token = cloud.keystone.token("alice")
    broken = BROKEN[name]
    with cloud.proxy.answering(lambda handler: handler.command == "GET" and broken(handler)):
        assert_away(cloud.get(token))
    wait_until("good answers count again", lambda: cloud.get(token).status_code == 200, 5)


def test_broken_answers_to_the_service_s_own_login_and_good_ones_again(cloud: Cloud) -> None:
    token = cloud.keystone.token("alice")
    with cloud.proxy.answering(says(500, "")), cloud.web() as web:
        for broken in BROKEN.values():
            cloud.proxy.answer = broken
            assert_away(web.get(token))
        cloud.proxy.answer = None
        wait_until("good answers count", lambda: web.get(token).status_code == 200, 5)


def test_a_redirect_takes_no_token_elsewhere(cloud: Cloud) -> None:
    target = f"{cloud.proxy.url}/elsewhere"
    seen: list[str] = []

    def answer(handler: object) -> bool:
        path = handler.path
        seen.append(path)
        if path.startswith(VALIDATION):
            return says(307, "", Location=target)(handler)
        return False

    with cloud.proxy.answering(answer):
        assert_away(cloud.get(cloud.keystone.token("alice")))
    assert any(path.startswith(VALIDATION) for path in seen)
    assert "/v3/elsewhere" not in seen


def test_wrong_settings_are_told_in_the_log_and_by_readyz(cloud: Cloud) -> None:
    bob = cloud.keystone.token("bob")
    wrong = {
        "password": {"OS_PASSWORD": "a-wrong-secret"},
        "role": {"OS_USERNAME": "alice", "OS_PASSWORD": "alicepw", "OS_PROJECT_NAME": "projA"},
        "region": {"OS_REGION_NAME": "Nowhere"},
        "port": {"OS_AUTH_URL": f"http://127.0.0.1:{free_port()}/v3"},
        "path": {"OS_AUTH_URL": f"{cloud.proxy.url}/nothing/v3"},
    }
    causes = {
        "password": "Unauthorized (HTTP 401)",
        "role": "Forbidden (HTTP 403)",
        "region": "EndpointNotFound: public endpoint for identity service in Nowhere region not found",
        "port": "ConnectFailure",
        "path": "NotFound (HTTP 404)",
    }
    with contextlib.ExitStack() as webs, ThreadPoolExecutor(3) as pool:
        started = pool.map(lambda settings: webs.enter_context(cloud.web(**settings)), wrong.values())
        for name, web in zip(wrong, started, strict=True):
            assert_error(web.get(None), 401)
            assert_away(web.get(bob))
            assert "a-wrong-secret" not in web.log()
            assert "Traceback" not in web.log(), name
            # This Keystone has SQLite: under several log-ins at once it may answer 500 first, which is logged as that.
            wait_until(f"{name}'s cause is told", lambda web=web, name=name: _tells(web, bob, causes[name]))
            if name == "role":  # Keystone says so of tokens that there are, not of readyz's, which is nobody's
                continue
            assert_error(ready := web.get(None, "/readyz"), 503, "keystone")
            assert ready.json()["errors"] == {"keystone": ["Keystone does not answer as it should; try again."]}
            wait_until(f"{name} is logged", lambda web=web: "OS_* settings may be wrong" in web.log())


def _tells(web: Web, token: str, cause: str) -> bool:
    """Send one more request. Returns whether the log then names this cause for Keystone, and no other one."""
    before = len(web.log())
    assert_away(web.get(token))
    told = [line for line in web.log()[before:].splitlines() if "Keystone can't be asked: " in line]
    return bool(told) and all(cause in line for line in told)


def test_an_endpoint_that_comes_into_the_catalogue_is_found(cloud: Cloud) -> None:
    keystone, admin = cloud.keystone, cloud.keystone.token("admin")
    with cloud.web(OS_REGION_NAME="Late") as web:
        assert_away(web.get(keystone.token("alice")))
        assert keystone.request("POST", "/regions", admin, json={"region": {"id": "Late"}}).status_code == 201
        services = keystone.request("GET", "/services?type=identity", admin).json()["services"]
        endpoint = {
            "service_id": services[0]["id"],
            "interface": "public",
            "region_id": "Late",
            "url": keystone.url,
        }
        made = keystone.request("POST", "/endpoints", admin, json={"endpoint": endpoint})
        assert made.status_code == 201, made.text
        try:
            wait_until("it is found", lambda: web.get(keystone.token("alice")).status_code == 200)
        finally:
            keystone.request("DELETE", f"/endpoints/{made.json()['endpoint']['id']}", admin)
            keystone.request("DELETE", "/regions/Late", admin)


def test_readyz_is_good_whenever_keystone_is(cloud: Cloud) -> None:
    with cloud.web() as web:
        with cloud.proxy.answering(says(500, "{}")):
            wait_until("it has tried", lambda: "OS_* settings may be wrong" in web.log())
            assert web.get(None, "/readyz").status_code == 503
        wait_until("it is ready", lambda: web.get(None, "/readyz").status_code == 200)
        with cloud.proxy.answering(says(500, "{}")):
            assert_away(web.get("unknown"))
            wait_until("it is not ready", lambda: web.get(None, "/readyz").status_code == 503)
        wait_until("it is ready again", lambda: web.get(None, "/readyz").status_code == 200)

