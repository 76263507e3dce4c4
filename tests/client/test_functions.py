"""Functions, by the real library."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import HELLO, Maker
from tests.client.driver import Client, ClientError, body_of, output_of
from tests.integration.service import Service, package

pytestmark = pytest.mark.xdist_group("client")


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def test_function_is_made_of_a_file_whose_name_is_not_ascii(
    client: Client, service: Service, tmp_path: Path, name: str, check_fields: Callable[..., None]
) -> None:
    file = tmp_path / "päckage 文件.zip"
    file.write_bytes(package(greet=HELLO))
    given = {"description": "schöne Grüße", "entry": "greet.main", "cpu": 200, "memory_size": 64 << 20, "timeout": 7}

    made = client.functions.create(
        code={"source": "package", "md5sum": md5(file)}, runtime=service.runtime(), package=file, name=name, **given
    )

    assert {field: made[field] for field in given} == given
    assert made["code"] == {"source": "package", "md5sum": md5(file)}
    shown = client.functions.get(made["id"])
    assert shown == made | {"code": shown["code"]}
    assert json.loads(shown["code"]) == made["code"]
    execution = client.function_executions.create(function_id=made["id"], input='{"name": "Ada"}')
    assert output_of(execution) == "Hello, Ada"
    check_fields("function", made, shown, *client.functions.list())


def test_function_of_a_package_alone_has_every_default(
    client: Client, service: Service, zipped: Callable[[str], Path]
) -> None:
    made = client.functions.create({"source": "package"}, service.runtime(), zipped(HELLO), name=None, cpu=None)
    assert made["name"] is None
    assert (made["entry"], made["cpu"], made["memory_size"], made["timeout"]) == ("main.main", 100, 32 << 20, 5)
    assert (made["count"], made["latest_version"]) == (0, 0)


def test_function_of_an_image_has_neither_runtime_nor_package(client: Client, name: str) -> None:
    made = client.functions.create(code={"source": "image", "image": "registry/app:1"}, name=name, cpu=150)
    assert made["code"] == {"source": "image", "image": "registry/app:1"}
    assert (made["runtime_id"], made["entry"], made["cpu"]) == (None, None, 150)
    assert client.functions.find(name=name)["id"] == made["id"]


def test_function_of_swift_is_refused_without_authentication(client: Client, service: Service) -> None:
    code = {"source": "swift", "swift": {"container": "c", "object": "o"}}
    with pytest.raises(ClientError, match="authentication") as refused:
        client.functions.create(code=code, runtime=service.runtime(), name="f")
    assert refused.value.kind == "HTTPBadRequest"


def test_functions_are_listed_with_filters_and_found_by_name(client: Client, make: Maker, name: str) -> None:
    first, second = make(name=name), make(name=f"{name}-other")

    def ids(**filters: Any) -> list[str]:
        return [row["id"] for row in client.functions.list(**filters)]

    for filters in ({}, {"all_projects": True}, {"project_id": "default"}, {"all_projects": "true", "unknown": 1}):
        assert ids(**filters)[-2:] == [first["id"], second["id"]]
    assert ids(name=name) == ids(name=f"eq:{name}") == ids(name=f"in:{name},x") == [first["id"]]
    assert ids(name=f"neq:{name}", id=f"in:{first['id']},{second['id']}") == [second["id"]]
    assert ids(project_id="another") == []
    assert client.functions.find(name=name)["id"] == first["id"]
    assert [row["id"] for row in client.functions.findall(name=name)] == [first["id"]]


def test_name_that_nothing_or_too_much_has_is_not_found(client: Client, make: Maker, name: str) -> None:
    with pytest.raises(ClientError, match="No Function matching") as nothing:
        client.functions.find(name=name)
    assert nothing.value.kind == "NotFound"
    make(name=name)
    make(name=name)
    with pytest.raises(ClientError) as both:
        client.functions.find(name=name)
    assert both.value.kind == "NoUniqueMatch"


def test_update_of_nothing_changes_nothing(client: Client, make: Maker, name: str) -> None:
    made = make(name=name)
    assert client.functions.update(made["id"]) == made
    nulls = dict.fromkeys(["name", "description", "entry", "cpu", "memory_size", "timeout"])
    assert client.functions.update(made["id"], **nulls) == made


def test_update_changes_what_it_names(
    client: Client, make: Maker, name: str, check_fields: Callable[..., None]
) -> None:
    source = HELLO + "def other():\n    return 'other'\n"
    made = make(source, name=name)
    changes = {
        "name": f"{name} neü",
        "description": "a & b = c",
        "entry": "main.other",
        "cpu": 300,
        "memory_size": 128 << 20,
        "timeout": 9,
    }
    updated = client.functions.update(made["id"], **changes)
    assert updated == made | changes | {"updated_at": updated["updated_at"]}
    assert updated["updated_at"] is not None
    assert output_of(client.function_executions.create(made["id"])) == "other"
    check_fields("function", updated)


def test_update_of_the_package_runs_the_new_code(
    client: Client, make: Maker, zipped: Callable[[str], Path]
) -> None:
    made = make()
    assert output_of(client.function_executions.create(made["id"])) == "Hello, World"
    new = zipped("def main():\n    return 'new'\n")

    updated = client.functions.update(made["id"], code={"source": "package"}, package=new, name="renamed")

    assert updated["code"] == {"source": "package", "md5sum": md5(new)}
    assert updated["name"] == "renamed"
    assert output_of(client.function_executions.create(made["id"])) == "new"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ({"source": "package"}, "package"),
        ({"source": "image", "image": "x"}, "can't change"),
        ({"source": "swift", "swift": {"container": "c", "object": "o"}}, "can't change"),
    ],
)
def test_update_of_code_is_refused_without_its_package(
    client: Client, make: Maker, code: dict[str, Any], words: str
) -> None:
    made = make()
    with pytest.raises(ClientError, match=words) as refused:
        client.functions.update(made["id"], code=code)
    assert refused.value.kind == "HTTPBadRequest"


def test_update_to_the_package_that_is_there_is_refused(
    client: Client, make: Maker, zipped: Callable[[str], Path]
) -> None:
    made, same = make(), zipped(HELLO)
    with pytest.raises(ClientError, match="not changed") as refused:
        client.functions.update(made["id"], code=made["code"], package=same)
    assert refused.value.kind == "HTTPBadRequest"


def test_package_with_another_checksum_is_refused(
    client: Client, service: Service, zipped: Callable[[str], Path]
) -> None:
    with pytest.raises(ClientError, match="md5sum") as refused:
        client.functions.create({"source": "package", "md5sum": "0" * 32}, service.runtime(), zipped(HELLO))
    assert refused.value.kind == "HTTPBadRequest"


def test_download_is_the_package_byte_for_byte(client: Client, service: Service, zipped: Callable[[str], Path]) -> None:
    file = zipped(HELLO)
    made = client.functions.create({"source": "package"}, service.runtime(), file)

    response = client.functions.get(made["id"], download=True)

    assert body_of(response) == file.read_bytes()
    headers = {header.lower(): value for header, value in response["headers"].items()}
    assert headers["content-type"] == "application/zip"
    assert int(headers["content-length"]) == file.stat().st_size
    assert "content-encoding" not in headers
    assert f"{made['id']}.zip" in headers["content-disposition"]


def test_download_of_an_image_function_is_refused(client: Client, name: str) -> None:
    made = client.functions.create(code={"source": "image", "image": "x"}, name=name)
    with pytest.raises(ClientError) as refused:
        client.functions.get(made["id"], download=True)
    assert (refused.value.kind, refused.value.code) == ("HTTPMethodNotAllowed", 405)


def test_deleted_function_is_gone_and_its_executions_stay(client: Client, make: Maker) -> None:
    made = make()
    execution = client.function_executions.create(made["id"])
    assert client.functions.delete(made["id"]) is None
    with pytest.raises(ClientError) as gone:
        client.functions.get(made["id"])
    assert gone.value.kind == "HTTPNotFound"
    assert client.function_executions.get(execution["id"]) == execution


def test_calls_are_counted(client: Client, make: Maker) -> None:
    made = make()
    for _ in range(2):
        client.function_executions.create(made["id"])
    assert client.functions.get(made["id"])["count"] == 2
