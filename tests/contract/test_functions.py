"""`/v1/functions`: code and limits, made, shown, downloaded and deleted."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from typing import Any

import pytest

from tests.contract.service import HELLO, MAX_PACKAGE_SIZE, NOBODY, REFERENCE_CLIENT, User, error, located, no_body
from tests.contract.shapes import FUNCTION, FUNCTION_MADE, check, check_all
from tests.contract.uploads import IMAGE, MIB, SWIFT, create, fields_of, form, image_function
from tests.integration.service import package

pytestmark = pytest.mark.xdist_group("contract")


def test_POST_v1_functions_answers_201(user: User) -> None:
    archive = package(hello_world=HELLO)
    given: dict[str, Any] = {"name": "hello_world", "runtime_id": user.runtime_id(), "entry": "hello_world.main"}
    given |= {"cpu": 200, "description": "of a test", "timeout": 15}
    answer = form(user, "POST", "/v1/functions", archive, code='{"source": "package"}', memory=33000000, **given)
    assert answer.status_code == 201, answer.text
    made = answer.json()
    located(user, answer, f"/v1/functions/{made['id']}")
    check(FUNCTION_MADE, made)
    assert {name: made[name] for name in given} == given
    assert made["code"] == {"source": "package", "md5sum": hashlib.md5(archive).hexdigest()}
    assert made["memory_size"] == 32 * MIB
    assert (made["count"], made["latest_version"], made["updated_at"]) == (0, 0, None)


def test_a_function_from_an_image_is_made_of_json(user: User) -> None:
    given = {"name": "hello_world", "description": "of a test", "memory_size": 33554432, "timeout": 15, "cpu": 200}
    made = user.made("/v1/functions", code=IMAGE, runtime_id=user.runtime_id(), **given)
    check(FUNCTION_MADE, made)
    assert {name: made[name] for name in given} == given
    assert (made["code"], made["entry"], made["runtime_id"]) == (IMAGE, None, user.runtime_id())
    assert image_function(user)["runtime_id"] is None


def test_a_function_from_an_image_is_made_of_a_form_too(user: User) -> None:
    for sent in ("data", "files"):
        fields = {"name": "from an image", "code": json.dumps(IMAGE)}
        parts = {name: (None, value) for name, value in fields.items()} if sent == "files" else fields
        answer = user.send("POST", "/v1/functions", **{sent: parts})
        assert answer.status_code == 201, answer.text
        assert answer.json()["code"] == IMAGE


def test_a_function_from_swift_needs_authentication(user: User) -> None:
    fields = fields_of(user, code=SWIFT)
    error(user.post("/v1/functions", **fields), 400, "authentication", field="code")


def test_what_is_left_out_of_a_function_has_its_default(user: User) -> None:
    made = create(user, entry=None).json()
    defaults = {"entry": "main.main", "cpu": 100, "memory_size": 32 * MIB, "timeout": 5, "description": None}
    assert {name: made[name] for name in defaults} == defaults


def test_json_holds_no_package(user: User) -> None:
    """The reference's example of a body; what it describes is sent as a form, with the package."""
    given = {"code": {"source": "package"}, "description": "of a test", "memory_size": 33554432, "timeout": 15}
    error(user.post("/v1/functions", **fields_of(user, cpu=200, **given)), 400, field="package")


def test_the_reference_client_alone_may_leave_out_the_name(user: User) -> None:
    error(create(user, name=None), 400, field="name")
    body = {"code": IMAGE}
    answer = user.send("POST", "/v1/functions", json=body, headers=REFERENCE_CLIENT)
    assert (answer.status_code, answer.json()["name"]) == (201, None)
    error(user.post("/v1/functions", **body), 400, field="name")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"memory_size": 33554432}, 32 * MIB),
        ({"memory": 33000000}, 32 * MIB),
        ({"memory_size": 33000000}, 32 * MIB),
        ({"memory": 33554433}, 33 * MIB),
        ({"memory": 134217728, "memory_size": 134217728}, 128 * MIB),
        ({"memory": 33000000, "memory_size": 33554432}, 32 * MIB),  # the same, once they are rounded up
    ],
)
def test_memory_has_two_names_and_is_rounded_up(user: User, given: dict[str, int], kept: int) -> None:
    assert create(user, **given).json()["memory_size"] == kept


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": ""}, "name", ()),
        ({"name": "x" * 256}, "name", ()),
        ({"description": "x" * 256}, "description", ()),
        ({"runtime_id": "python3"}, "runtime_id", ("Expected a uuid but received python3",)),
        ({"runtime_id": None}, "runtime_id", ()),
        ({"code": None}, "code", ()),
        ({"code": "package"}, "code", ()),
        ({"code": "{}"}, "code", ("source",)),
        ({"code": '{"source": "git"}'}, "code", ("source",)),
        ({"code": '{"source": "package", "md5sum": "' + "0" * 32 + '"}'}, "code", ("md5sum",)),
        ({"code": '{"source": "package", "md5sum": "7"}'}, "code", ("md5sum",)),
        ({"code": '{"source": "package", "image": "i"}'}, "code", ("image",)),
        ({"entry": "main"}, "entry", ("module.function", "such as main.main")),
        ({"entry": "hello.py:main"}, "entry", ("module.function", "such as hello.main", "hello.py:main")),
        ({"entry": "a." + "b" * 80}, "entry", ()),
        ({"cpu": 99}, "cpu", ("not within the allowable range: 100 ~ 300(millicpu)",)),
        ({"cpu": 301}, "cpu", ("100 ~ 300",)),
        ({"cpu": "half"}, "cpu", ()),
        ({"memory_size": 32 * MIB - MIB}, "memory_size", ("33554432 ~ 134217728(bytes)",)),
        ({"memory_size": 128 * MIB + 1}, "memory_size", ("33554432 ~ 134217728(bytes)",)),
        ({"memory": 128 * MIB + 1}, "memory", ("33554432 ~ 134217728(bytes)",)),
        ({"memory": 33554432, "memory_size": 134217728}, "memory", ("memory_size",)),
        ({"timeout": 0}, "timeout", ("1 ~ 300(second)",)),
        ({"timeout": 301}, "timeout", ("1 ~ 300(second)",)),
        ({"count": 0}, "count", ("Unknown field",)),
        ({"colour": "red"}, "colour", ("Unknown field",)),
    ],
)
def test_a_function_that_makes_no_sense_is_refused(
    user: User, fields: dict[str, Any], field: str, words: tuple[str, ...]
) -> None:
    error(create(user, **fields), 400, *words, field=field)


def test_a_runtime_that_can_not_be_used_is_refused(user: User) -> None:
    error(create(user, runtime_id=NOBODY), 404, NOBODY, field="runtime_id")
    broken = user.made("/v1/runtimes", image="no/such-image")["id"]
    error(create(user, runtime_id=broken), 409, broken)


def test_a_package_that_is_none_is_refused(user: User) -> None:
    error(form(user, "POST", "/v1/functions", b"no zip", **fields_of(user)), 400, "zip")
    too_large = b"x" * (MAX_PACKAGE_SIZE + 1)
    error(form(user, "POST", "/v1/functions", too_large, **fields_of(user)), 413, str(MAX_PACKAGE_SIZE))
    error(form(user, "POST", "/v1/functions", None, **fields_of(user)), 400, field="package")
    fields = {"name": "n", "code": json.dumps(IMAGE)}
    error(form(user, "POST", "/v1/functions", package(main=HELLO), **fields), 400, field="package")


def test_a_chunked_upload_needs_a_length(user: User) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    error(user.send("POST", "/v1/functions", data=iter([b"--b--\r\n"]), headers=headers), 411, "Content-Length")


def test_other_media_types_are_refused(user: User) -> None:
    answer = user.send("POST", "/v1/functions", data=b"<a/>", headers={"Content-Type": "application/xml"})
    error(answer, 415, "application/xml")


def test_GET_v1_functions_answers_200(user: User) -> None:
    made = create(user, name="one of a list", cpu=250, memory_size=134217728, timeout=10).json()
    answer = user.get("/v1/functions", params={"id": f"in:{made['id']},{NOBODY}"})
    assert answer.status_code == 200
    check_all(FUNCTION, answer.json())
    (row,) = answer.json()
    assert json.loads(row["code"]) == made["code"]
    assert row | {"code": made["code"]} == made


def test_GET_v1_functions_id_answers_200(user: User) -> None:
    for made in (create(user).json(), image_function(user)):
        answer = user.get(f"/v1/functions/{made['id']}")
        assert answer.status_code == 200
        shown = answer.json()
        check(FUNCTION, shown)
        assert json.loads(shown["code"]) == made["code"]
        assert shown | {"code": made["code"]} == made
    error(user.get(f"/v1/functions/{NOBODY}"), 404, NOBODY)


def test_calls_are_counted_without_being_a_change(user: User) -> None:
    function_id = user.function()
    for _ in range(2):
        user.made("/v1/executions", function_id=function_id)
    shown = user.get(f"/v1/functions/{function_id}").json()
    assert (shown["count"], shown["updated_at"]) == (2, None)


def test_GET_v1_functions_id_download_true_answers_200(user: User) -> None:
    archive = package(hello_world=HELLO)
    function_id = form(user, "POST", "/v1/functions", archive, **fields_of(user)).json()["id"]
    answer = user.get(f"/v1/functions/{function_id}?download=true", headers={"Accept-Encoding": "gzip, deflate"})
    assert answer.status_code == 200
    assert answer.content == archive
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{function_id}.zip"'
    assert answer.headers["Content-Length"] == str(len(archive))
    assert answer.headers["ETag"] == f'"{hashlib.md5(archive).hexdigest()}"'
    assert "Content-Encoding" not in answer.headers
    assert zipfile.ZipFile(io.BytesIO(answer.content)).namelist() == ["hello_world.py"]


@pytest.mark.parametrize("spelling", ["1", "t", "true", "on", "y", "yes", "True", "YES"])
def test_downloads_are_asked_for_in_many_spellings(user: User, function_id: str, spelling: str) -> None:
    answer = user.get(f"/v1/functions/{function_id}", params={"download": spelling})
    assert answer.headers["Content-Type"] == "application/zip"


@pytest.mark.parametrize("spelling", ["0", "f", "false", "off", "n", "no", "False", ""])
def test_what_is_no_yes_is_no_download(user: User, function_id: str, spelling: str) -> None:
    check(FUNCTION, user.get(f"/v1/functions/{function_id}", params={"download": spelling}).json())


def test_a_function_from_an_image_can_not_be_downloaded(user: User) -> None:
    function_id = image_function(user)["id"]
    error(user.get(f"/v1/functions/{function_id}?download=true"), 405, function_id)
    error(user.get(f"/v1/functions/{NOBODY}?download=true"), 404, NOBODY)


def test_DELETE_v1_functions_id_answers_204(user: User) -> None:
    function_id = user.function()
    user.version(function_id)
    execution = user.made("/v1/executions", function_id=function_id)
    path = f"/v1/functions/{function_id}"
    no_body(user.delete(path), 204)
    for gone in (path, f"{path}/versions", f"{path}/versions/1"):
        error(user.get(gone), 404, function_id)
    error(user.delete(path), 404, function_id)
    error(user.post("/v1/executions", function_id=function_id), 404, function_id, field="function_id")
    assert user.get(f"/v1/executions/{execution['id']}").json() == execution


def test_a_function_that_is_named_is_not_deleted(user: User) -> None:
    function_id = user.function()
    number = user.version(function_id)
    path = f"/v1/functions/{function_id}"
    alias = user.alias(function_id)
    for kind, named in (("webhooks", {}), ("jobs", {"pattern": "0 0 1 1 *"})):
        error(user.delete(path), 403, "in use")
        row = user.made(f"/v1/{kind}", function_id=function_id, function_version=number, **named)["id"]
        assert user.delete(f"/v1/aliases/{alias}").status_code in (204, 404)
        error(user.delete(path), 403, "in use", row)
        assert user.delete(f"/v1/{kind}/{row}").status_code == 204
        alias = user.alias(function_id, function_version=number)
    assert user.delete(f"/v1/aliases/{alias}").status_code == 204
    no_body(user.delete(path), 204)


def test_a_job_that_has_ended_keeps_no_function(user: User) -> None:
    function_id = user.function()
    job = user.made("/v1/jobs", function_id=function_id, pattern="0 0 1 1 *")["id"]
    error(user.delete(f"/v1/functions/{function_id}"), 403, job)
    assert user.put(f"/v1/jobs/{job}", status="cancelled").status_code == 202
    no_body(user.delete(f"/v1/functions/{function_id}"), 204)
