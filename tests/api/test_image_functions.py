"""Functions from images: their rows and rules. They run on Kubernetes alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from falcon import testing

from tests.api.client import Client, assert_error, package


@pytest.fixture
def image(client: Client) -> dict[str, Any]:
    return dict(make(client).json)


def make(client: Client, code: Any = None, **fields: Any) -> testing.Result:
    code = {"source": "image", "image": "docker-registry/hello-world"} if code is None else code
    return client.simulate_post("/v1/functions", json={"name": "hello_world", "code": code, **fields})


def test_an_image_function_has_neither_entry_nor_package(client: Client) -> None:
    answer = make(client, cpu=200, timeout=15, description="Hello World from Docker image")
    assert answer.status_code == 201, answer.text
    row = answer.json
    assert row["code"] == {"source": "image", "image": "docker-registry/hello-world"}
    assert (row["entry"], row["runtime_id"], row["cpu"], row["timeout"]) == (None, None, 200, 15)
    assert json.loads(client.simulate_get(f"/v1/functions/{row['id']}").json["code"]) == row["code"]
    download = client.simulate_get(f"/v1/functions/{row['id']}", params={"download": "yes"})
    assert_error(download, 405, "no package")


def test_an_image_function_may_name_a_runtime_and_come_as_a_form(client: Client) -> None:
    runtime_id = client.runtime()
    parts: list[tuple[str, str | bytes]] = [
        ("name", "n"), ("runtime_id", runtime_id), ("code", '{"source": "image", "image": "a/b"}'),
    ]  # fmt: skip
    assert client.form("POST", "/v1/functions", parts).json["runtime_id"] == runtime_id
    assert_error(client.simulate_delete(f"/v1/runtimes/{runtime_id}"), 403, "in use")


@pytest.mark.parametrize(
    ("code", "fields", "word"),
    [
        ({"source": "image"}, {}, "code: image is required"),
        ({"source": "image", "image": ""}, {}, "code: image must be text"),
        ({"source": "image", "image": 7}, {}, "code: image must be text"),
        ({"source": "image", "image": "a", "md5sum": "0" * 32}, {}, "Unknown field of source image: md5sum"),
        ({"source": "image", "image": "a"}, {"entry": "main.main"}, "entry"),
        ({"source": "swift", "swift": {"container": "c"}}, {"runtime_id": "OURS"}, "swift.object"),
        ({"source": "swift", "swift": {"container": "c", "object": ""}}, {"runtime_id": "OURS"}, "swift.object"),
        ({"source": "swift", "swift": {"container": "c", "object": "o", "x": 1}}, {"runtime_id": "OURS"}, "swift"),
        ({"source": "swift", "swift": "c/o"}, {"runtime_id": "OURS"}, "swift"),
        ({"source": "swift"}, {"runtime_id": "OURS"}, "swift.container"),
        ({"source": "swift", "swift": {"container": "c", "object": "o"}}, {}, "runtime_id"),
        ({"source": "swift", "swift": {"container": "c", "object": "o"}}, {"runtime_id": "OURS"}, "authentication"),
        ({"source": ["image"]}, {}, "source must be one of"),
        ({"source": "package", "image": "a"}, {"runtime_id": "OURS"}, "Unknown field of source package: image"),
    ],
)
def test_what_makes_no_sense_is_refused(client: Client, code: Any, fields: dict[str, Any], word: str) -> None:
    if "runtime_id" in fields:
        fields = fields | {"runtime_id": client.runtime()}
    assert_error(make(client, code, **fields), 400, word)
    assert client.simulate_get("/v1/functions").json == []


def test_an_image_function_takes_no_package(client: Client, image: dict[str, Any]) -> None:
    answer = client.upload(code='{"source": "image", "image": "i"}')
    assert_error(answer, 400, "package")
    answer = client.form("PUT", f"/v1/functions/{image['id']}", [("package", package())])
    assert_error(answer, 400, "package")
    assert client.stored() == set()


def test_an_image_function_changes_its_name_description_and_timeout_only(
    client: Client, image: dict[str, Any]
) -> None:
    path = f"/v1/functions/{image['id']}"
    changed = client.simulate_put(path, json={"name": "n", "description": "d", "timeout": 30})
    assert changed.status_code == 200, changed.text
    assert (changed.json["name"], changed.json["description"], changed.json["timeout"]) == ("n", "d", 30)
    for fields in (
        {"code": {"source": "image", "image": "other"}}, {"entry": "main.main"}, {"cpu": 200},
        {"memory_size": 67108864}, {"runtime_id": client.runtime()}, {"code": {"source": "package"}},
    ):  # fmt: skip
        assert_error(client.simulate_put(path, json=fields), 400, next(iter(fields)))
    assert client.simulate_get(path).json == changed.json | {"code": json.dumps(changed.json["code"])}
