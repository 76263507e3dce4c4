"""The workers of a function: which there are, more, fewer, or none."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.service import MAX_WORKERS, NOBODY, REFERENCE_CLIENT, User, error, located, no_body
from tests.contract.shapes import WORKER, check_all

pytestmark = pytest.mark.xdist_group("contract")


def test_POST_v1_functions_id_detach_answers_202(user: User) -> None:
    function_id = user.function()
    user.made("/v1/executions", function_id=function_id)
    before = user.workers(function_id)
    assert len(before) == 1
    answer = user.send("POST", f"/v1/functions/{function_id}/detach")
    no_body(answer, 202)
    located(user, answer, f"/v1/functions/{function_id}")
    assert user.workers(function_id) == []
    user.made("/v1/executions", function_id=function_id)
    assert not set(user.workers(function_id)) & set(before)
    error(user.send("POST", f"/v1/functions/{NOBODY}/detach"), 404, NOBODY)


def test_POST_v1_functions_id_scale_up_answers_202(user: User) -> None:
    function_id = user.function()
    path = f"/v1/functions/{function_id}"
    for number, sent in ((1, {}), (2, {"json": {}}), (4, {"json": {"count": 2}})):
        answer = user.send("POST", f"{path}/scale_up", **sent)
        no_body(answer, 202)
        located(user, answer, path)
        assert len(user.workers(function_id)) == number
    error(user.post(f"/v1/functions/{NOBODY}/scale_up"), 404, NOBODY)
    user.send("POST", f"{path}/detach")


def test_POST_v1_functions_id_scale_down_answers_202(user: User) -> None:
    function_id = user.function()
    path = f"/v1/functions/{function_id}"
    assert user.post(f"{path}/scale_up", count="4").status_code == 202  # numbers come as text too
    # Without a count one goes; the last one never does.
    for number, sent in ((3, {}), (2, {"json": {"count": None}}), (1, {"json": {"count": 5}}), (1, {})):
        answer = user.send("POST", f"{path}/scale_down", **sent)
        no_body(answer, 202)
        located(user, answer, path)
        assert len(user.workers(function_id)) == number
    none = user.function()
    no_body(user.post(f"/v1/functions/{none}/scale_down"), 202)
    error(user.post(f"/v1/functions/{NOBODY}/scale_down"), 404, NOBODY)


@pytest.mark.parametrize(
    "count", [MAX_WORKERS + 1, 10**30, 1e30, "1" + "0" * 30], ids=["above", "integer", "float", "text"]
)
def test_a_scale_down_takes_any_count_and_a_scale_up_at_most_the_maximum(user: User, count: object) -> None:
    function_id = user.function()
    path = f"/v1/functions/{function_id}"
    error(user.post(f"{path}/scale_up", count=count), 400, str(MAX_WORKERS), field="count")
    assert user.post(f"{path}/scale_up", count=2).status_code == 202
    no_body(user.post(f"{path}/scale_down", count=count), 202)
    assert len(user.workers(function_id)) == 1
    user.send("POST", f"{path}/detach")


@pytest.mark.parametrize("act", ["scale_up", "scale_down"])
@pytest.mark.parametrize("body", [{"count": 0}, {"count": -1}, {"count": "many"}, {"count": 1.5}, {"colour": 1}])
def test_a_scale_that_makes_no_sense_is_refused(user: User, function_id: str, act: str, body: dict[str, Any]) -> None:
    (field,) = body
    error(user.post(f"/v1/functions/{function_id}/{act}", **body), 400, field=field)


def test_GET_v1_functions_id_workers_answers_200(user: User) -> None:
    function_id = user.function()
    number = user.version(function_id)
    path = f"/v1/functions/{function_id}/workers"
    assert user.get(path).json() == []
    user.made("/v1/executions", function_id=function_id)
    user.made("/v1/executions", function_id=function_id, function_version=number)
    for version, query in ((0, {}), (0, {"function_version": "0"}), (number, {"function_version": str(number)})):
        answer = user.get(path, params=query)
        assert answer.status_code == 200
        check_all(WORKER, answer.json())
        (row,) = answer.json()
        assert (row["function_id"], row["function_version"]) == (function_id, version)
        enveloped = user.get(path, params=query, headers=REFERENCE_CLIENT)
        assert enveloped.json() == {"workers": [row]}
    error(user.get(path, params={"function_version": 9}), 404, "Version 9")
    error(user.get(path, params={"function_version": "x"}), 400, field="function_version")
    error(user.get(path, params={"colour": "red"}), 400, field="colour")
    assert user.get(path, params={"colour": "red"}, headers=REFERENCE_CLIENT).status_code == 200
    error(user.get(f"/v1/functions/{NOBODY}/workers"), 404, NOBODY)
