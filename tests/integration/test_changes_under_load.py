"""Functions, versions and aliases that change while they are called: no server error, no old code, no wrong count."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from tests.integration.service import Service, package, running_service
from tests.servers.postgres import PostgresServer

CHANGES = 11


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(f"changes-{name}")) for name in ("sqlite", "postgresql")],
)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    if request.param == "sqlite":
        with running_service(max_workers=12, max_versions=1000) as running:
            yield running
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        with running_service(server.create_database(), max_workers=12, max_versions=1000) as running:
            yield running


class User:
    """A user with a connection of its own, who is never told of an error of the server."""

    def __init__(self, service: Service):
        self.http = requests.Session()
        self.url = service.url

    def send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        answer = self.http.request(method, self.url + path, timeout=60, **arguments)
        assert answer.status_code < 500, answer.text
        return answer

    def put_code(self, function_id: str, number: int) -> requests.Response:
        files = {"package": ("f.zip", package(main=says(number)), "application/zip")}
        return self.send("PUT", f"/v1/functions/{function_id}", files=files)

    def call(self, **fields: Any) -> requests.Response:
        return self.send("POST", "/v1/executions", json=fields)


def says(number: int) -> str:
    return f"def main():\n    return {number}\n"


def output_of(answer: requests.Response) -> int:
    execution = answer.json()
    assert execution["status"] == "success", execution
    return int(json.loads(execution["result"])["output"])


def until_done(service: Service, work: Callable[[User], None], *others: Callable[[User], None]) -> None:
    """Run `work` once, and beside it each of `others` again and again until it is done; all must go well."""
    done = threading.Event()
    failures: list[BaseException] = []

    def run(body: Callable[[User], None], *, once: bool) -> None:
        user = User(service)
        try:
            while not done.is_set():
                body(user)
                if once:
                    break
        except BaseException as error:
            failures.append(error)
        finally:
            if once or failures:
                done.set()

    threads = [threading.Thread(target=run, args=(work,), kwargs={"once": True})]
    threads += [threading.Thread(target=run, args=(other,), kwargs={"once": False}) for other in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    if failures:
        raise failures[0]


def test_no_call_runs_old_code_after_an_answered_update(service: Service) -> None:
    function_id = service.function(says(0))
    begun = answered = 0
    calls = itertools.count()

    def change(user: User) -> None:
        nonlocal begun, answered
        for number in range(1, CHANGES + 1):
            begun = number
            assert user.put_code(function_id, number).status_code == 200
            answered = number

    def call(user: User) -> None:
        oldest = answered
        output = output_of(user.call(function_id=function_id))
        assert oldest <= output <= begun
        next(calls)

    until_done(service, change, *[call] * 4)
    made = next(calls)
    assert made > 0
    assert service.request("GET", f"/v1/functions/{function_id}").json()["count"] == made
    assert output_of(User(service).call(function_id=function_id)) == CHANGES


def test_calls_by_alias_run_what_it_meant_at_some_time_during_the_call(service: Service) -> None:
    function_id = service.function(says(1))
    user = User(service)
    for number in (1, 2, 3):
        user.put_code(function_id, number)
        assert user.send("POST", f"/v1/functions/{function_id}/versions").json()["version_number"] == number
    alias = {"name": function_id, "function_id": function_id, "function_version": 1}
    assert user.send("POST", "/v1/aliases", json=alias).status_code == 201
    meant = [1]
    answered = 0
    ran: list[int] = []

    def move(user: User) -> None:
        nonlocal answered
        for number in range(CHANGES * 4):
            meant.append(number % 3 + 1)
            answer = user.send("PUT", f"/v1/aliases/{function_id}", json={"function_version": meant[-1]})
            assert answer.status_code == 202
            answered = len(meant) - 1

    def call(user: User) -> None:
        oldest = answered
        answer = user.call(function_alias=function_id)
        assert output_of(answer) == answer.json()["function_version"]
        assert output_of(answer) in meant[oldest:]
        ran.append(output_of(answer))

    until_done(service, move, *[call] * 4)
    rows = user.send("GET", f"/v1/functions/{function_id}/versions").json()
    assert {row["version_number"]: row["count"] for row in rows} == {number: ran.count(number) for number in (1, 2, 3)}
    assert ran


def test_functions_that_come_change_and_go_while_they_are_called(service: Service) -> None:
    alive = [service.function(says(0)) for _ in range(3)]
    runtime_id = service.runtime()
    turn = itertools.count()
    seen: list[tuple[str, int]] = []

    def any_of_them() -> str:
        return alive[next(turn) % len(alive)]

    def replace(user: User) -> None:
        for number in range(CHANGES):
            old = alive[number % 3]
            form = {"name": "n", "runtime_id": runtime_id, "code": '{"source": "package"}'}
            files = {"package": ("f.zip", package(main=says(number)), "application/zip")}
            made = user.send("POST", "/v1/functions", data=form, files=files)
            assert made.status_code == 201, made.text
            alive[number % 3] = made.json()["id"]
            assert user.send("DELETE", f"/v1/functions/{old}").status_code == 204

    def change(user: User) -> None:
        seen.append(("put", user.put_code(any_of_them(), 7).status_code))

    def call(user: User) -> None:
        answer = user.call(function_id=any_of_them())
        seen.append(("call", answer.status_code))
        assert answer.status_code == 404 or output_of(answer) >= 0

    until_done(service, replace, change, *[call] * 3)
    assert {status for act, status in seen if act == "put"} <= {200, 404}
    assert {status for act, status in seen if act == "call"} <= {201, 404}
    assert ("call", 201) in seen


def test_versions_that_come_and_go_while_they_are_called(service: Service) -> None:
    function_id = service.function(says(0))
    path = f"/v1/functions/{function_id}/versions"
    latest = 0
    ran: list[int] = []

    def make(user: User) -> None:
        nonlocal latest
        for number in range(1, CHANGES + 1):
            user.put_code(function_id, number)
            answer = user.send("POST", path)
            assert (answer.status_code, answer.json()["version_number"]) == (201, number)
            latest = number
            if number > 2 and number % 2:  # every other one stays
                assert user.send("DELETE", f"{path}/{number - 2}").status_code == 204

    def call(user: User) -> None:
        number = max(1, latest - next(turn) % 3)
        answer = user.call(function_id=function_id, function_version=number)
        assert answer.status_code in (201, 404), answer.text
        if answer.status_code == 201:
            assert output_of(answer) == number
            ran.append(number)

    turn = itertools.count()
    until_done(service, make, *[call] * 3)
    left = {row["version_number"]: row["count"] for row in User(service).send("GET", path).json()}
    assert sorted(left) == [number for number in range(1, CHANGES + 1) if number % 2 == 0 or number == CHANGES]
    assert left == {number: ran.count(number) for number in left}
    assert ran
