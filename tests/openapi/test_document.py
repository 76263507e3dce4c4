"""The API document is whole: all that is served is in it, and nothing else; and its examples are true."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema_rs
import pytest
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR

from qinling_falcon.api import ROUTES
from qinling_falcon.invocation.cancellation import LONGEST_END_S
from qinling_falcon.openapi.document import build, write
from qinling_falcon.openapi.parameters import in_path
from qinling_falcon.resources.operation import operations_of
from qinling_falcon.settings import Settings
from tests.openapi.promises import Promises

KEYSTONE = Settings(auth_mode="keystone", public_endpoint="https://functions.example/faas/", list_envelope="always")
BOTH = pytest.mark.parametrize("settings", [Settings(), KEYSTONE, Settings(list_envelope="never")])
# Their senders have no token, but they may have to sign their deliveries.
SIGNED = {"/v1/webhooks/{webhook_id}/invoke", "/v1/webhooks/{webhook_id}/invoke/{path}"}
OPEN = {"/", "/v1", "/healthz", "/readyz", "/openapi.json", "/docs", "/docs/{file_name}"} | SIGNED


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in item.keys() - {"parameters"}:
            yield path, method.upper(), item[method]


@BOTH
def test_it_is_openapi(settings: Settings) -> None:
    document = json.loads(write(ROUTES, settings))
    assert [error.message for error in OPENAPI_31_VALIDATOR.iter_errors(document)] == []
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.Draft202012Validator({**schema, "components": document["components"]})


def test_it_has_all_operations_of_all_routes_and_no_others() -> None:
    served = {
        (path.replace("{path:path}", "{path}"), method)
        for path, resource in ROUTES
        for method, operation in operations_of(resource).items()
        if operation.is_documented
    }
    described = list(operations(build(ROUTES, Settings())))
    assert {(path, method) for path, method, _ in described} == served
    assert len({operation["operationId"] for _, _, operation in described}) == len(served)
    assert all(operation["summary"] for _, _, operation in described)


def test_it_says_for_how_long_a_retry_waits() -> None:
    retry = build(ROUTES, Settings())["paths"]["/v1/executions/{execution_id}/retry"]["post"]
    assert f"this waits up to {LONGEST_END_S:.0f} s for that, and then answers 409" in retry["description"]


def test_every_field_of_every_schema_is_in_it() -> None:
    schemas = build(ROUTES, Settings())["components"]["schemas"]
    seen = 0
    for _, resource in ROUTES:
        for operation in operations_of(resource).values():
            for cls in (operation.takes, operation.answers.shows):
                if cls is not None:
                    given = {"settings": Settings(), "base_url": ""}
                    made = cls(**{name: given[name] for name in inspect.signature(cls).parameters if name in given})
                    described = schemas[cls.__name__.removesuffix("Shown")]
                    assert described["properties"].keys() == made.fields.keys()
                    assert described["additionalProperties"] is False
                    seen += len(made.fields)
    assert seen > 200


def test_every_parameter_of_a_path_is_described() -> None:
    for path, item in build(ROUTES, Settings())["paths"].items():
        assert item.get("parameters", []) == list(in_path(path))
        assert path.count("{") == len(list(in_path(path)))


@BOTH
def test_all_requests_and_answers_have_examples_that_are_true(settings: Settings) -> None:
    document = build(ROUTES, settings)
    promises = Promises(document)
    seen = 0
    for path, method, operation in operations(document):
        answers = [
            document["components"]["responses"][answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
            for answer in operation["responses"].values()
        ]
        contents = [content for answer in answers for content in answer.get("content", {}).items()]
        contents += operation.get("requestBody", {}).get("content", {}).items()
        for media_type, content in contents:
            if (media_type.endswith("json") and path != "/openapi.json") or "form" in media_type:
                wrong = promises.validator(content["schema"]).iter_errors(content["example"])
                assert [error.message for error in wrong] == [], f"{method} {path} {media_type}"
                seen += 1
    assert seen > 200


def test_who_may_is_in_it() -> None:
    for path, _, operation in operations(build(ROUTES, KEYSTONE)):
        assert operation["security"] == ([] if path in OPEN else [{"token": []}])
        assert ("401" in operation["responses"]) == (path not in OPEN - SIGNED)
        assert ("x-policy" in operation) == (path not in OPEN)
    for path, _, operation in operations(build(ROUTES, Settings())):
        assert operation.get("security", []) == []
        assert ("401" in operation["responses"]) == (path in SIGNED)


def test_it_names_where_users_reach_the_service() -> None:
    assert [server["url"] for server in build(ROUTES, KEYSTONE)["servers"]] == ["https://functions.example/faas", "/"]
    assert [server["url"] for server in build(ROUTES, Settings())["servers"]] == ["/"]


def test_limits_are_those_of_the_settings() -> None:
    document = build(ROUTES, replace(Settings(), min_timeout=3, max_timeout=77, max_workers=9))
    schemas = document["components"]["schemas"]
    timeout = schemas["FunctionCreate"]["properties"]["timeout"]["anyOf"][0]
    assert (timeout["minimum"], timeout["maximum"]) == (3, 77)
    assert schemas["ScaleUp"]["properties"]["count"]["anyOf"][0]["maximum"] == 9


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (200, b'[{"id": 1}]', {}),
        (200, b'{"runtimes": [], "more": 1}', {}),
        (418, b"{}", {}),
        (200, b"[]", {"content-type": "text/plain"}),
        (403, b'{"message": "no"}', {}),
    ],
)
def test_answers_that_break_a_promise_are_noticed(status: int, body: bytes, headers: dict[str, str]) -> None:
    promises = Promises(build(ROUTES, Settings()))
    usual = {"content-type": "application/json", "x-request-id": "x", "x-content-type-options": "nosniff"}
    promises.check("GET", "/v1/runtimes", 200, usual, b"[]")
    with pytest.raises(AssertionError):
        promises.check("GET", "/v1/runtimes", status, usual | headers, body)
    for name in ("x-request-id", "x-content-type-options"):
        with pytest.raises(AssertionError):
            promises.check("GET", "/v1/runtimes", 200, {key: usual[key] for key in usual.keys() - {name}}, b"[]")


@pytest.mark.parametrize("name", ["download", "all_projects"])
def test_flags_in_query_strings_are_spelt_as_the_service_reads_them(name: str) -> None:
    document = build(ROUTES, Settings())
    parameters = [p for _, _, operation in operations(document) for p in operation.get("parameters", [])]
    schemas = [parameter["schema"] for parameter in parameters if parameter["name"] == name]
    assert schemas
    for schema in schemas:
        valid = jsonschema_rs.Draft202012Validator(schema).is_valid
        assert all(valid(text) for text in ("yes", "True", "0", "OFF", True))
        assert not any(valid(text) for text in ("maybe", "2", "truefalse"))
        assert valid("") == (name == "download")


@pytest.mark.parametrize(
    ("name", "body", "is_good"),
    [
        ("ExecutionCreate", {"function_id": "0197a1c0-11d2-7f0a-9c35-2e84b1d6a503"}, True),
        ("ExecutionCreate", {"function_alias": "a"}, True),
        ("ExecutionCreate", {"function_alias": None, "input": 1}, False),
        ("WebhookCreate", {}, False),
        ("JobCreate", {"function_alias": "a", "pattern": "* * * * *"}, True),
        ("JobCreate", {"function_alias": "a"}, False),
        ("JobCreate", {"pattern": "* * * * *"}, False),
    ],
)
def test_of_what_is_needed_in_one_of_several_fields_one_is_required(
    name: str, body: dict[str, Any], is_good: bool
) -> None:
    promised = Promises(build(ROUTES, Settings()))
    assert promised.validator({"$ref": f"#/components/schemas/{name}"}).is_valid(body) is is_good
    path = {"ExecutionCreate": "executions", "WebhookCreate": "webhooks", "JobCreate": "jobs"}[name]
    assert promised.document["paths"][f"/v1/{path}"]["post"]["requestBody"]["required"]
