"""`/v1/functions/{id}/versions`: numbered snapshots."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.contract.service import MAX_VERSIONS, NOBODY, User, error, located, no_body
from tests.contract.shapes import VERSION, check, check_all
from tests.integration.service import package

pytestmark = pytest.mark.xdist_group("contract")


def says(what: str) -> str:
    return f"def main():\n    return {what!r}\n"


def output_of(execution: dict[str, Any]) -> Any:
    assert execution["status"] == "success", execution
    return json.loads(execution["result"])["output"]


def update(user: User, function_id: str, source: str) -> None:
    files = {"package": ("f.zip", package(main=source), "application/zip")}
    assert user.send("PUT", f"/v1/functions/{function_id}", files=files).status_code == 200


@pytest.fixture
def mine(user: User) -> str:
    """A function that this test changes."""
    return user.function()


def test_POST_v1_functions_id_versions_answers_201(user: User, mine: str) -> None:
    path = f"/v1/functions/{mine}/versions"
    answer = user.post(path, description="the first")
    assert answer.status_code == 201
    located(user, answer, f"{path}/1")
    made = answer.json()
    check(VERSION, made)
    assert (made["version_number"], made["description"], made["function_id"]) == (1, "the first", mine)
    assert (made["count"], made["updated_at"]) == (0, None)
    function = user.get(f"/v1/functions/{mine}").json()
    assert (function["latest_version"], function["updated_at"]) == (1, None)
    error(user.post(f"/v1/functions/{NOBODY}/versions"), 404, NOBODY)


def test_a_version_needs_no_body(user: User, mine: str) -> None:
    answer = user.send("POST", f"/v1/functions/{mine}/versions")
    assert (answer.status_code, answer.json()["description"]) == (201, None)


@pytest.mark.parametrize("field", ["description", "version_number", "colour"])
def test_a_version_that_makes_no_sense_is_refused(user: User, mine: str, field: str) -> None:
    error(user.post(f"/v1/functions/{mine}/versions", **{field: 3}), 400, field=field)


def test_a_version_needs_something_new(user: User, mine: str) -> None:
    path = f"/v1/functions/{mine}"
    user.made(f"{path}/versions")
    error(user.post(f"{path}/versions"), 403, "not changed since its version 1")
    user.put(path, name="renamed", description="which no version fixes")
    error(user.post(f"{path}/versions"), 403, "not changed")
    for number, change in enumerate(({"cpu": 200}, {"memory_size": 67108864}, {"timeout": 9}), 2):
        user.put(path, **change)
        assert user.made(f"{path}/versions")["version_number"] == number


def test_numbers_are_never_used_again(user: User, mine: str) -> None:
    assert (user.version(mine), user.version(mine)) == (1, 2)
    assert user.delete(f"/v1/functions/{mine}/versions/2").status_code == 204
    assert user.get(f"/v1/functions/{mine}").json()["latest_version"] == 2
    assert user.version(mine) == 3


def test_a_function_has_only_so_many_versions(user: User, mine: str) -> None:
    for _ in range(MAX_VERSIONS):
        user.version(mine)
    user.put(f"/v1/functions/{mine}", cpu=300)
    error(user.post(f"/v1/functions/{mine}/versions"), 403, str(MAX_VERSIONS))
    user.delete(f"/v1/functions/{mine}/versions/2")
    assert user.made(f"/v1/functions/{mine}/versions")["version_number"] == MAX_VERSIONS + 1


def test_only_functions_from_a_package_have_versions(user: User) -> None:
    image = {"source": "image", "image": "docker-registry/hello-world"}
    function_id = user.made("/v1/functions", name="from an image", code=image)["id"]
    error(user.post(f"/v1/functions/{function_id}/versions"), 403, "package")
    assert user.get(f"/v1/functions/{function_id}/versions").json() == []


def test_GET_v1_functions_id_versions_answers_200(user: User, mine: str) -> None:
    path = f"/v1/functions/{mine}/versions"
    assert user.get(path).json() == []
    for number in (1, 2):
        assert user.version(mine, description=f"number {number}") == number
    answer = user.get(path)
    assert answer.status_code == 200
    check_all(VERSION, answer.json())
    assert [row["version_number"] for row in answer.json()] == [1, 2]
    error(user.get(f"/v1/functions/{NOBODY}/versions"), 404, NOBODY)


def test_GET_v1_functions_id_versions_n_answers_200(user: User, mine: str) -> None:
    path = f"/v1/functions/{mine}/versions"
    made = user.made(path, description="the first")
    answer = user.get(f"{path}/1")
    assert answer.status_code == 200
    check(VERSION, answer.json())
    assert answer.json() == made
    for absent in ("0", "2", "999999999"):
        error(user.get(f"{path}/{absent}"), 404, f"Version {absent}")
    error(user.get(f"/v1/functions/{NOBODY}/versions/1"), 404, NOBODY)


@pytest.mark.parametrize("number", ["one", "-1", "1.0", "1e3", "1000000000", "9" * 30, "%31%00"])
def test_a_number_that_is_none_is_refused(user: User, mine: str, number: str) -> None:
    path = f"/v1/functions/{mine}/versions/{number}"
    for answer in (user.get(path), user.delete(path), user.send("POST", f"{path}/detach")):
        error(answer, 400, "version")


def test_GET_v1_functions_id_versions_n_download_true_answers_200(user: User) -> None:
    first, second = says("first"), says("second")
    mine = user.function(first)
    user.version(mine)
    update(user, mine, second)
    answer = user.get(f"/v1/functions/{mine}/versions/1?download=true")
    archive = package(main=first)
    assert answer.status_code == 200
    assert answer.content == archive
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{mine}_1.zip"'
    assert answer.headers["Content-Length"] == str(len(archive))
    assert answer.headers["ETag"] == f'"{hashlib.md5(archive).hexdigest()}"'
    assert "Content-Encoding" not in answer.headers


def test_a_version_keeps_what_it_fixes(user: User) -> None:
    mine = user.function(says("old") + "def other():\n    return 'other'\n")
    number = user.version(mine)
    user.put(f"/v1/functions/{mine}", entry="main.other")
    assert output_of(user.made("/v1/executions", function_id=mine)) == "other"
    update(user, mine, says("new") + "def other():\n    return 'new other'\n")
    assert output_of(user.made("/v1/executions", function_id=mine)) == "new other"
    assert output_of(user.made("/v1/executions", function_id=mine, function_version=number)) == "old"


def test_calls_of_a_version_are_counted_there(user: User, mine: str) -> None:
    number = user.version(mine)
    for version in (number, 0, number):
        user.made("/v1/executions", function_id=mine, function_version=version)
    shown = user.get(f"/v1/functions/{mine}/versions/{number}").json()
    assert (shown["count"], shown["updated_at"]) == (2, None)
    assert user.get(f"/v1/functions/{mine}").json()["count"] == 1


def test_DELETE_v1_functions_id_versions_n_answers_204(user: User, mine: str) -> None:
    number = user.version(mine)
    execution = user.made("/v1/executions", function_id=mine, function_version=number)
    path = f"/v1/functions/{mine}/versions/{number}"
    no_body(user.delete(path), 204)
    for answer in (user.get(path), user.delete(path), user.send("POST", f"{path}/detach")):
        error(answer, 404, f"Version {number}")
    refused = user.post("/v1/executions", function_id=mine, function_version=number)
    error(refused, 404, field="function_version")
    assert user.get(f"/v1/executions/{execution['id']}").json() == execution


def test_a_version_that_is_named_is_not_deleted(user: User, mine: str) -> None:
    number, other = user.version(mine), user.version(mine)
    path = f"/v1/functions/{mine}/versions/{number}"
    target = {"function_id": mine, "function_version": number}
    alias = user.alias(mine, function_version=number)
    error(user.delete(path), 403, "in use", alias)
    user.put(f"/v1/aliases/{alias}", function_version=other, routing={str(number): 0.1})
    error(user.delete(path), 403, "in use", alias)
    user.delete(f"/v1/aliases/{alias}")
    for kind, named in (("webhooks", {}), ("jobs", {"pattern": "0 0 1 1 *"})):
        row = user.made(f"/v1/{kind}", **target, **named)["id"]
        error(user.delete(path), 403, "in use", row)
        if kind == "jobs":
            user.put(f"/v1/jobs/{row}", status="paused")
            error(user.delete(path), 403, "in use", row)
            user.put(f"/v1/jobs/{row}", status="cancelled")  # which is no live job
        else:
            user.delete(f"/v1/{kind}/{row}")
    no_body(user.delete(path), 204)


def test_POST_v1_functions_id_versions_n_detach_answers_202(user: User, mine: str) -> None:
    number = user.version(mine)
    for version in (0, number):
        user.made("/v1/executions", function_id=mine, function_version=version)
    path = f"/v1/functions/{mine}/versions/{number}"
    answer = user.send("POST", f"{path}/detach")
    no_body(answer, 202)
    located(user, answer, path)
    assert (len(user.workers(mine)), user.workers(mine, number)) == (1, [])
    error(user.send("POST", f"/v1/functions/{mine}/versions/9/detach"), 404, "Version 9")


def test_POST_v1_functions_id_versions_n_scale_up_answers_202(user: User, mine: str) -> None:
    number = user.version(mine)
    path = f"/v1/functions/{mine}/versions/{number}"
    answer = user.post(f"{path}/scale_up", count=2)
    no_body(answer, 202)
    located(user, answer, path)
    assert (user.workers(mine), len(user.workers(mine, number))) == ([], 2)
    error(user.post(f"/v1/functions/{mine}/versions/9/scale_up"), 404, "Version 9")
    error(user.post(f"{path}/scale_up", count=0), 400, field="count")
    user.send("POST", f"{path}/detach")


def test_POST_v1_functions_id_versions_n_scale_down_answers_202(user: User, mine: str) -> None:
    number = user.version(mine)
    path = f"/v1/functions/{mine}/versions/{number}"
    assert user.post(f"{path}/scale_up", count=3).status_code == 202
    answer = user.post(f"{path}/scale_down")
    no_body(answer, 202)
    located(user, answer, path)
    assert len(user.workers(mine, number)) == 2
    no_body(user.post(f"{path}/scale_down", count=9), 202)
    assert len(user.workers(mine, number)) == 1
    error(user.post(f"/v1/functions/{mine}/versions/9/scale_down"), 404, "Version 9")
    error(user.post(f"{path}/scale_down", count=0), 400, field="count")


def test_version_0_is_the_function_itself_to_its_workers(user: User, mine: str) -> None:
    path = f"/v1/functions/{mine}/versions/0"
    for act, left in (("scale_up", 1), ("scale_up", 2), ("scale_down", 1), ("detach", 0)):
        answer = user.send("POST", f"{path}/{act}")
        no_body(answer, 202)
        assert len(user.workers(mine)) == left
        located(user, answer, f"/v1/functions/{mine}")
