"""Common mistakes of new users. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.service import HELLO, NOBODY, User, error
from tests.contract.uploads import create, fields_of, form
from tests.integration.service import package, wait_until

pytestmark = pytest.mark.xdist_group("contract")

_UPLOAD = "Send a multipart form with the zip archive as its part 'package' (curl -F package=@function.zip)."
_CODE = 'For a package, code is {"source": "package"}.'
_JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runtime_id": "python3"}, "runtime_id: Expected a uuid but received python3. It must be an id, not a name."),
        ({"runtime_id": NOBODY}, f"runtime_id: Runtime {NOBODY} not found."),
        (
            {"runtime_id": ""},
            "runtime_id: Missing data for required field. GET /v1/runtimes lists the runtimes with their ids.",
        ),
        ({"name": None}, "name: Missing data for required field."),
        ({"code": None}, f"code: Missing data for required field. {_CODE}"),
        ({"code": "package"}, f"code: Invalid JSON: Expecting value: line 1 column 1 (char 0). {_CODE}"),
        ({"code": '{"source": "zip"}'}, f"code: source must be one of package, swift, image. {_CODE}"),
        (
            {"entry": "hello_world.py:main"},
            "entry: must be module.function (the module without its file's ending), such as hello_world.main;"
            " not 'hello_world.py:main'.",
        ),
        ({"memory_size": "64M"}, "memory_size: must be a whole number (bytes)."),
        ({"timeout": "5s"}, "timeout: must be a whole number (second)."),
        ({"cpu": "0.1"}, "cpu: must be a whole number (millicpu)."),
        (
            {"runtime": "python3", "zip": "x"},
            "Unknown field: runtime, zip. Known are backoff_s, callback_secret, code, concurrency, cpu, description,"
            " entry, isolation, max_age_s, max_attempts, memory, memory_size, min_warm, name, on_failure, on_success,"
            " package, runtime_id, timeout.",
        ),
    ],
)
def test_a_function_with_a_wrong_field(user: User, fields: dict[str, Any], message: str) -> None:
    answer = create(user, **fields)
    error(answer, 404 if NOBODY in message else 400)
    assert answer.json()["faultstring"] == message


def test_a_function_without_its_package(user: User) -> None:
    fields = fields_of(user, code={"source": "package"})
    answers = [
        form(user, "POST", "/v1/functions", None, **fields_of(user)),
        user.send("POST", "/v1/functions", data=fields_of(user)),
        user.post("/v1/functions", **fields),
    ]
    for answer in answers:
        error(answer, 400, field="package")
        assert answer.json()["faultstring"] == f"package: the package's file is missing. {_UPLOAD}"


def test_a_function_in_a_failed_runtime_is_refused_with_the_reason(user: User) -> None:
    made = user.made("/v1/runtimes", image="node:20")
    wait_until("it fails", lambda: user.get(f"/v1/runtimes/{made['id']}").json()["status"] == "error")
    answer = create(user, runtime_id=made["id"])
    error(answer, 409, "is not available: it is error (image node:20 is not a local runtime;", field="runtime_id")


def test_a_version_of_an_unchanged_function_is_refused_with_what_must_change(user: User) -> None:
    function_id = user.function()
    user.version(function_id)
    answer = user.post(f"/v1/functions/{function_id}/versions")
    error(answer, 403, "since its version 1: a version needs another package, entry, limit or runtime.")


def test_a_package_that_is_another_file(user: User) -> None:
    answer = form(user, "POST", "/v1/functions", HELLO.encode(), **fields_of(user))
    advice = "Put the modules into one: python3 -m zipfile -c function.zip main.py"
    error(answer, 400, f"The package is not a zip archive. {advice}", field="package")


def test_a_package_that_is_cut_off(user: User) -> None:
    answer = form(user, "POST", "/v1/functions", package(main=HELLO)[:-30], **fields_of(user))
    error(answer, 400, "The package is cut off: it begins as a zip archive, but its end is missing.", field="package")


def test_a_form_that_is_cut_off_in_its_package(user: User) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="package"; filename="f.zip"\r\n\r\n'
    data = head + package(main=HELLO)[:-30]
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    answer = user.send("POST", "/v1/functions", data=data, headers=headers)
    error(answer, 400, "The upload is cut off: the form ends within its package. Send it again.", field="package")


def test_a_package_that_is_the_name_of_a_file(user: User) -> None:
    answer = form(user, "POST", "/v1/functions", None, **fields_of(user, package="hello.zip"))
    advice = "with curl, write @ before the file's name, as in -F package=@function.zip"
    error(answer, 400, f"The package is not a zip archive. It was sent as text: {advice}", field="package")


def test_a_function_as_another_kind_of_body(user: User) -> None:
    answer = user.send("POST", "/v1/functions", data=package(main=HELLO), headers={"Content-Type": "application/zip"})
    error(answer, 415, "must be multipart/form-data (for a package)", "not application/zip.")


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (
            "{}",
            {"Content-Type": "application/x-www-form-urlencoded"},
            415,
            "Content-Type must be application/json, not",
        ),
        ("{}", {"Content-Type": "multipart/form-data; boundary=x"}, 415, "not multipart/form-data."),
        ("{}", {}, 415, "not absent."),
        ("{'function_id': 1}", _JSON, 400, "Invalid JSON: Expecting property name enclosed in double quotes: line 1"),
        ('{"function_id": }', _JSON, 400, "Invalid JSON: Expecting value: line 1 column 17 (char 16)."),
        ("[]", _JSON, 400, "The request body must be a JSON object."),
        ("", _JSON, 400, "function_id or function_alias is required."),
        ('{"function_id": "hello"}', _JSON, 400, "Expected a uuid but received hello. It must be an id, not a name."),
        (f'{{"function_id": "{NOBODY}"}}', _JSON, 404, f"function_id: Function {NOBODY} not found."),
        (
            f'{{"function_id": "{NOBODY}", "inputs": {{}}}}',
            _JSON,
            400,
            "Unknown field: inputs. Known are description, function_alias, function_id, function_version, input, sync.",
        ),
    ],
)
def test_a_call_that_is_put_wrongly(user: User, body: str, headers: dict[str, str], status: int, message: str) -> None:
    answer = user.send("POST", "/v1/executions", data=body.encode(), headers=headers)
    error(answer, status, message)


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/functions", 404, "404 Not Found: GET /functions. Paths begin with /v1, as /v1/functions does; /docs"),
        ("POST", f"/v1/functions/{NOBODY}/executions", 404, "Paths begin with /v1"),
        ("PUT", "/v1/executions", 405, "405 Method Not Allowed: PUT /v1/executions. Allowed here: DELETE, GET, "),
        ("POST", f"/v1/functions/{NOBODY}", 405, "Allowed here: DELETE, GET, "),
        ("GET", "/v1/functions/hello", 400, "function_id: Expected a uuid but received hello. It must be an id, not a"),
        ("GET", "/v1/functions?nme=hello", 400, "Unknown filter: nme. Known are "),
    ],
)
def test_a_request_to_the_wrong_place(user: User, method: str, path: str, status: int, message: str) -> None:
    error(user.send(method, path), status, message)
