"""`PUT /v1/functions/{id}`: what can change, and what can't."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from tests.contract.service import HELLO, NOBODY, REFERENCE_CLIENT, User, error
from tests.contract.shapes import FUNCTION_MADE, check
from tests.contract.uploads import IMAGE, MIB, SWIFT, create, form, image_function
from tests.integration.service import package

pytestmark = pytest.mark.xdist_group("contract")


def test_PUT_v1_functions_id_answers_200(user: User) -> None:
    made = create(user).json()
    given = {"description": "changed", "memory_size": 67108864, "timeout": 15, "entry": "hello_world.main", "cpu": 200}
    given |= {"runtime_id": user.runtime_id(), "name": "hello_again"}
    answer = user.put(f"/v1/functions/{made['id']}", **given)
    assert answer.status_code == 200
    updated = answer.json()
    check(FUNCTION_MADE, updated)
    assert {name: updated[name] for name in given} == given
    assert updated["updated_at"] is not None
    assert {name: updated[name] for name in updated.keys() - given.keys() - {"updated_at"}} == {
        name: made[name] for name in made.keys() - given.keys() - {"updated_at"}
    }


def test_a_new_package_comes_in_a_form(user: User) -> None:
    made = create(user).json()
    archive = package(hello_world="def main():\n    return 'new'\n")
    fields: dict[str, Any] = {"name": "hello_world", "runtime_id": user.runtime_id(), "entry": "hello_world.main"}
    fields |= {"cpu": 200, "memory": 33000000, "description": "of a test", "timeout": 15}
    answer = form(user, "PUT", f"/v1/functions/{made['id']}", archive, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["code"] == {"source": "package", "md5sum": hashlib.md5(archive).hexdigest()}
    assert (answer.json()["cpu"], answer.json()["memory_size"], answer.json()["timeout"]) == (200, 32 * MIB, 15)
    execution = user.made("/v1/executions", function_id=made["id"])
    assert json.loads(execution["result"])["output"] == "new"


def test_the_entry_alone_can_change(user: User) -> None:
    function_id = user.function("def main():\n    return 1\ndef other():\n    return 2\n")
    assert user.put(f"/v1/functions/{function_id}", entry="main.other").status_code == 200
    execution = user.made("/v1/executions", function_id=function_id)
    assert json.loads(execution["result"])["output"] == 2


def test_an_update_of_nothing_is_none(user: User, function_id: str) -> None:
    path = f"/v1/functions/{function_id}"
    nulls = {"name": None, "description": None, "code": None, "package": None, "entry": None, "memory_size": None}
    for answer in (
        user.put(path),
        user.put(path, count=7),  # listed by the reference; it has no effect
        user.send("PUT", path),
        user.send("PUT", path, json=nulls, headers=REFERENCE_CLIENT),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["updated_at"] is None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"code": {"source": "package"}}, "package"),  # without its package
        ({"code": SWIFT}, "code"),  # another kind of source
        ({"code": IMAGE}, "code"),
        ({"cpu": 99}, "cpu"),
        ({"memory": 1024}, "memory"),
        ({"timeout": 301}, "timeout"),
        ({"entry": "main"}, "entry"),
        ({"runtime_id": "7"}, "runtime_id"),
        ({"latest_version": 3}, "latest_version"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_update_that_makes_no_sense_is_refused(
    user: User, function_id: str, fields: dict[str, Any], field: str
) -> None:
    error(user.put(f"/v1/functions/{function_id}", **fields), 400, field=field)
    assert user.get(f"/v1/functions/{function_id}").json()["updated_at"] is None


def test_the_package_that_is_there_already_is_refused_with_its_sum(user: User) -> None:
    made = create(user).json()
    fields = {"code": json.dumps(made["code"])}
    answer = form(user, "PUT", f"/v1/functions/{made['id']}", package(hello_world=HELLO), **fields)
    error(answer, 400, "checksum is not changed", field="code")


def test_a_runtime_that_an_update_can_not_use_is_refused(user: User, function_id: str) -> None:
    path = f"/v1/functions/{function_id}"
    error(user.put(path, runtime_id=NOBODY), 404, NOBODY, field="runtime_id")
    broken = user.made("/v1/runtimes", image="no/such-image")["id"]
    error(user.put(path, runtime_id=broken), 409, broken)


def test_of_a_function_from_an_image_only_the_row_changes(user: User) -> None:
    path = f"/v1/functions/{image_function(user)['id']}"
    updated = user.put(path, name="n", description="d", timeout=9).json()
    assert (updated["name"], updated["description"], updated["timeout"]) == ("n", "d", 9)
    for field, value in {"cpu": 200, "memory_size": 67108864, "entry": "a.b", "code": IMAGE}.items():
        error(user.put(path, **{field: value}), 400, field=field)
    error(user.put(path, runtime_id=user.runtime_id()), 400, field="runtime_id")
    error(form(user, "PUT", path, package(main=HELLO)), 400, field="package")


def test_what_runs_can_not_change_while_a_live_job_names_the_function(user: User) -> None:
    function_id = user.function()
    job = user.made("/v1/jobs", function_id=function_id, pattern="0 0 1 1 *")["id"]
    path = f"/v1/functions/{function_id}"
    for status in ("running", "paused"):
        assert user.put(f"/v1/jobs/{job}", status=status).status_code == 202
        error(user.put(path, cpu=200), 403, job)
        assert user.put(path, name="renamed", description=status, timeout=7).status_code == 200
    assert user.put(f"/v1/jobs/{job}", status="cancelled").status_code == 202
    assert user.put(path, cpu=200).status_code == 200


def test_the_reference_client_flattens_code_into_a_form(user: User) -> None:
    made = create(user).json()
    archive = package(hello_world="def main():\n    return 'flat'\n")
    path = f"/v1/functions/{made['id']}"
    sent = {"files": {"package": ("f.zip", archive)}, "data": {"source": "package"}}
    answer = user.send("PUT", path, headers=REFERENCE_CLIENT, **sent)
    assert answer.status_code == 200, answer.text
    assert answer.json()["code"]["md5sum"] == hashlib.md5(archive).hexdigest()
    error(user.send("PUT", path, **sent), 400, field="source")
