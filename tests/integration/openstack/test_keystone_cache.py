"""What Keystone is asked, and how long its answers count: seen from before Keystone."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

from tests.integration.openstack.cloud import TOKEN_CACHE_S, Cloud, Web, assert_unauthorized
from tests.integration.service import wait_until


def test_twenty_calls_at_once_with_one_new_token_make_one_question(cloud: Cloud, patient: Web) -> None:
    token = cloud.keystone.token("alice")

    def take_time(handler: BaseHTTPRequestHandler) -> bool:
        threading.Event().wait(0.5)  # for the others to come
        return False

    with cloud.proxy.answering(take_time), ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(patient.get, token) for _ in range(20)]
        assert {answer.result().status_code for answer in answers} == {200}
    assert cloud.proxy.asked.count(token) == 1


def test_a_known_token_makes_no_question_until_its_time_is_over(cloud: Cloud, patient: Web) -> None:
    token = cloud.keystone.token("alice")
    for path in ("/v1/functions", "/v1/jobs", "/v1/functions") * 5:
        assert patient.get(token, path).status_code == 200
    assert cloud.proxy.asked.count(token) == 1
    wait_until("it is asked about again", lambda: cloud.get(token) and cloud.proxy.asked.count(token) >= 3)


def test_without_a_cache_each_call_makes_a_question(cloud: Cloud) -> None:
    token = cloud.keystone.token("alice")
    with cloud.web(TOKEN_CACHE_S=0) as web:
        for _ in range(3):
            assert web.get(token).status_code == 200
        assert cloud.proxy.asked.count(token) == 3
        cloud.keystone.revoke(token)
        assert web.get(token).status_code == 401


def test_a_refused_token_makes_one_question(cloud: Cloud) -> None:
    for _ in range(3):
        assert cloud.get("forged-and-tried-again").status_code == 401
    assert cloud.proxy.asked.count("forged-and-tried-again") == 1


def test_a_revoked_token_is_refused_when_its_time_in_the_cache_is_over(cloud: Cloud) -> None:
    token = cloud.keystone.token("alice")
    assert cloud.get(token).status_code == 200
    cloud.keystone.revoke(token)
    wait_until("it is refused", lambda: cloud.get(token).status_code == 401, TOKEN_CACHE_S + 5)
    assert_unauthorized(cloud.get(token), cloud.proxy)
    assert cloud.get(cloud.keystone.token("alice")).status_code == 200
