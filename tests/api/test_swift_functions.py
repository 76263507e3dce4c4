"""Functions whose code is an object in Swift: made, moved and downloaded with the caller's rights, run from a copy."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from falcon import testing

from qinling_falcon.auth import noauth
from qinling_falcon.auth.identity import Identity
from qinling_falcon.models import alias
from qinling_falcon.models.function import get
from qinling_falcon.models.scope import Context
from qinling_falcon.resources import open_answers
from qinling_falcon.resources.services import Services
from qinling_falcon.storage.packages import StoredPackage
from tests.api.client import REFERENCE_CLIENT, Client, assert_error, package
from tests.models.factories import make_runtime
from tests.servers.fake_swift import TOKEN, FakeSwift, answer, fake_swift

OWNER = Context("a", user_id="alice", roles=("member",))
HERE = {"container": "c", "object": "o"}
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(autouse=True)
def swift(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSwift]:
    """A Swift in which the caller of all requests has an account."""
    with fake_swift() as server:
        server.objects["c", "o"] = package()
        monkeypatch.setattr(noauth, "EVERYBODY", Identity(OWNER, TOKEN, server.url))
        yield server


def as_caller(monkeypatch: pytest.MonkeyPatch, *, token: str | None = TOKEN, url: str | None, **who: Any) -> None:
    monkeypatch.setattr(noauth, "EVERYBODY", Identity(Context(**({"project_id": "a"} | who)), token, url))


def make(client: Client, *, code: dict[str, Any] | None = None, **fields: Any) -> testing.Result:
    code = {"source": "swift", "swift": HERE} | (code or {})
    body = {"name": "s", "runtime_id": make_runtime(Context("admin")).id, "code": code}
    return client.simulate_post("/v1/functions", json=body | fields)


@pytest.fixture
def function(client: Client) -> dict[str, Any]:
    made = make(client)
    assert made.status_code == 201, made.text
    return dict(made.json)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def test_it_is_a_copy_of_the_object_taken_with_the_callers_token(
    client: Client, swift: FakeSwift, function: dict[str, Any]
) -> None:
    assert function["code"] == {"source": "swift", "swift": HERE, "md5sum": md5(package())}
    assert function["entry"] == "main.main"
    row = get(OWNER, function["id"])
    assert (client.stored(), row.source_etag) == ({row.package_key}, md5(package()))
    assert [(method, token) for method, _, token in swift.seen] == [("GET", TOKEN)]
    path = f"/v1/functions/{function['id']}"
    assert json.loads(client.simulate_get(path).json["code"]) == function["code"]
    assert client.simulate_delete(path).status_code == 204
    assert client.stored() == set()


def test_the_md5sum_is_compared_when_it_is_given(client: Client) -> None:
    assert_error(make(client, code={"md5sum": "0" * 32}), 400, md5(package()))
    assert client.stored() == set()
    assert make(client, code={"md5sum": md5(package())}).status_code == 201


@pytest.mark.parametrize(
    ("status", "told", "words"),
    [(404, 400, "c/o"), (403, 400, "may read"), (401, 503, "token"), (503, 503, "503"), (302, 502, "302")],
)
def test_what_swift_refuses_makes_no_function(
    client: Client, swift: FakeSwift, status: int, told: int, words: str
) -> None:
    swift.misbehave = lambda handler: answer(handler, status)
    refused = make(client)
    assert_error(refused, told, words)
    assert refused.headers.get("retry-after") == ("1" if told == 503 else None)
    assert client.stored() == set()
    assert client.simulate_get("/v1/functions").json == []


def test_what_is_no_package_makes_no_function(client: Client, swift: FakeSwift) -> None:
    for content, status, word in ((b"no zip", 400, "zip"), (bytes(256 * 1024 + 1), 413, "larger"), (b"", 400, "zip")):
        swift.objects["c", "o"] = content
        assert_error(make(client), status, word)
    assert client.stored() == set()


def test_an_object_that_is_cut_makes_no_function(client: Client, swift: FakeSwift) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9999\r\n\r\n" + package())
        handler.close_connection = True

    swift.misbehave = cut
    assert_error(make(client), 503, "broken off")
    assert client.stored() == set()


def test_who_has_no_token_or_no_account_is_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    as_caller(monkeypatch, token=None, url=None)
    assert_error(make(client), 400, "authentication, which is off")
    as_caller(monkeypatch, url=None)
    assert_error(make(client), 400, "object-store")


def test_nothing_is_fetched_for_a_function_that_can_not_be(client: Client, swift: FakeSwift) -> None:
    assert_error(make(client, code={"swift": {"container": "c"}}), 400, "swift.object")
    assert_error(make(client, runtime_id=None), 400, "runtime_id")
    code = json.dumps({"source": "swift", "swift": HERE})
    assert_error(client.upload(code=code, runtime_id=make_runtime(Context("admin")).id), 400, "package")
    assert (swift.seen, client.stored()) == ([], set())


@pytest.mark.parametrize(
    "where",
    [
        {"container": "../AUTH_b/c", "object": "o"},
        {"container": "c/d", "object": "o"},
        {"container": "..", "object": "o"},
        {"container": "c", "object": "../../AUTH_b/c/o"},
        {"container": "c", "object": "a//b"},
        {"container": "c", "object": "x" * 1025},
        {"container": "x" * 257, "object": "o"},
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_by_name(
    client: Client, swift: FakeSwift, function: dict[str, Any], where: dict[str, str]
) -> None:
    field = "swift.container" if where["object"] == "o" else "swift.object"
    swift.seen.clear()
    assert_error(make(client, code={"swift": where}), 400, "code", field)
    moved = client.simulate_put(f"/v1/functions/{function['id']}", json={"code": {"source": "swift", "swift": where}})
    assert_error(moved, 400, "code", field)
    assert swift.seen == []


@pytest.mark.parametrize(
    ("named", "where"),
    [
        ({"container": "d"}, {"container": "d", "object": "o"}),
        ({"object": "p"}, {"container": "c", "object": "p"}),
        ({"container": "d", "object": "p"}, {"container": "d", "object": "p"}),
    ],
)
def test_it_moves_to_another_container_or_object(
    client: Client, swift: FakeSwift, function: dict[str, Any], named: dict[str, str], where: dict[str, str]
) -> None:
    other = package("def main():\n    return 'other'\n")
    swift.objects[where["container"], where["object"]] = other
    path = f"/v1/functions/{function['id']}"
    changed = client.simulate_put(path, json={"code": {"source": "swift", "swift": named}, "cpu": 200})
    assert changed.status_code == 200, changed.text
    assert changed.json["code"] == {"source": "swift", "swift": where, "md5sum": md5(other)}
    assert changed.json["cpu"] == 200
    row = get(OWNER, function["id"])
    assert (client.stored(), row.source_etag) == ({row.package_key}, md5(other))


def test_its_own_place_named_again_fetches_it_again(
    client: Client, swift: FakeSwift, function: dict[str, Any]
) -> None:
    other = package("def main():\n    return 'other'\n")
    swift.objects["c", "o"] = other
    path = f"/v1/functions/{function['id']}"
    changed = client.simulate_put(path, json={"code": {"source": "swift", "swift": HERE}})
    assert changed.json["code"]["md5sum"] == md5(other)
    wrong = {"source": "swift", "swift": HERE, "md5sum": "0" * 32}
    assert_error(client.simulate_put(path, json={"code": wrong}), 400, md5(other))
    assert client.stored() == {get(OWNER, function["id"]).package_key}


def test_a_move_to_nowhere_changes_nothing(client: Client, function: dict[str, Any]) -> None:
    path = f"/v1/functions/{function['id']}"
    before = client.simulate_get(path).json
    moved = client.simulate_put(path, json={"code": {"source": "swift", "swift": {"object": "p"}}, "cpu": 200})
    assert_error(moved, 400, "c/p")
    assert client.simulate_get(path).json == before
    assert client.stored() == {get(OWNER, function["id"]).package_key}


def test_an_admin_of_another_project_can_not_change_it_and_swift_is_not_asked(
    client: Client, swift: FakeSwift, function: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    swift.seen.clear()
    as_caller(monkeypatch, url=swift.url, project_id="admin", is_admin=True)
    path = f"/v1/functions/{function['id']}"
    assert_error(client.simulate_put(path, json={"code": {"source": "swift", "swift": HERE}}), 403, "owner")
    assert swift.seen == []


def test_an_update_that_names_nothing_is_refused(client: Client, function: dict[str, Any]) -> None:
    path = f"/v1/functions/{function['id']}"
    for code in ({"source": "swift"}, {"source": "image", "image": "i"}, {"source": "package"}):
        assert_error(client.simulate_put(path, json={"code": code}), 400, "code")
    lost = b"source=swift&swift=container&swift=object"
    assert_error(client.send("PUT", path, lost, FORM, headers=REFERENCE_CLIENT), 400, "swift")


def test_no_change_of_it_is_a_package(client: Client, function: dict[str, Any]) -> None:
    stored = client.stored()
    path = f"/v1/functions/{function['id']}"
    assert_error(client.form("PUT", path, [("package", package())]), 400, "package")
    assert client.stored() == stored


def test_it_has_no_versions_and_may_have_an_alias(client: Client, function: dict[str, Any]) -> None:
    assert_error(client.simulate_post(f"/v1/functions/{function['id']}/versions", json={}), 403, "versions")
    assert alias.create(OWNER, name="it", function_id=function["id"]).function_version == 0


def test_of_two_simultaneous_moves_one_is_refused(
    client: Client, swift: FakeSwift, function: dict[str, Any], services: Services
) -> None:
    swift.objects["d", "o"] = swift.objects["c", "p"] = package("x = 1")
    swift.objects["d", "p"] = package("x = 2")
    path = f"/v1/functions/{function['id']}"
    first, second = ({"code": {"source": "swift", "swift": move}} for move in ({"container": "d"}, {"object": "p"}))
    save = services.packages.save
    answers: list[testing.Result] = []

    def saved(*arguments: Any, **named: Any) -> StoredPackage:
        services.packages.save = save
        stored = save(*arguments, **named)
        answers.append(client.simulate_put(path, json=second))
        return stored

    services.packages.save = saved
    answers.append(client.simulate_put(path, json=first))
    assert [answer.status_code for answer in answers] == [200, 409]
    assert get(OWNER, function["id"]).code["swift"] == {"container": "c", "object": "p"}
    assert client.stored() == {get(OWNER, function["id"]).package_key}
    assert client.simulate_put(path, json=first).json["code"]["swift"] == {"container": "d", "object": "p"}


def download(client: Client, function: dict[str, Any], method: str = "GET") -> testing.Result:
    return client.simulate_request(method, f"/v1/functions/{function['id']}", params={"download": "true"})


def test_a_download_is_the_object_as_it_is_now(client: Client, swift: FakeSwift, function: dict[str, Any]) -> None:
    other = package("def main():\n    return 'other'\n")
    swift.objects["c", "o"] = other
    for method, body in (("GET", other), ("HEAD", b"")):
        got = download(client, function, method)
        assert (got.status_code, got.content) == (200, body)
        assert got.headers["content-length"] == str(len(other))
        assert got.headers["etag"] == f'"{md5(other)}"'
        assert got.headers["content-type"] == "application/zip"
        assert got.headers["content-disposition"] == f'attachment; filename="{function["id"]}.zip"'


@pytest.mark.parametrize(("status", "told"), [(404, 404), (403, 403), (401, 503), (500, 503), (301, 502)])
def test_a_download_that_swift_refuses(
    client: Client, swift: FakeSwift, function: dict[str, Any], status: int, told: int
) -> None:
    swift.misbehave = lambda handler: answer(handler, status)
    assert_error(download(client, function), told, "")


def test_a_credential_whose_access_rules_know_nothing_of_swift_is_told_so(
    client: Client, swift: FakeSwift, function: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noauth, "EVERYBODY", Identity(OWNER, TOKEN, swift.url, by_credential=True))
    assert_error(make(client), 403, "application credentials")
    assert download(client, function).status_code == 200
    swift.tokens.clear()
    assert_error(download(client, function), 403, "application credential")


def test_a_download_that_is_cut_is_no_short_package(
    client: Client, swift: FakeSwift, function: dict[str, Any]
) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nETag: e\r\nContent-Length: 9999\r\n\r\n" + package())
        handler.close_connection = True

    swift.misbehave = cut
    answer = download(client, function)
    assert_error(answer, 503, "broken off")
    assert not {"etag", "content-disposition"} & answer.headers.keys()


def test_a_download_that_nobody_reads_holds_no_connection_to_swift(
    client: Client, swift: FakeSwift, function: dict[str, Any]
) -> None:
    ended = threading.Event()

    def send(handler: BaseHTTPRequestHandler) -> None:
        swift.behave(handler)
        if handler.rfile.read(1) == b"":
            ended.set()

    swift.misbehave = send
    environ = testing.create_environ(f"/v1/functions/{function['id']}", query_string="download=true", host="localhost")
    seen = testing.StartResponseMock()
    body = client.app(environ, seen)
    assert ended.wait(10)
    assert seen.status == "200 OK"
    assert b"".join(body) == package()


def test_downloads_that_wait_on_the_disk_are_bounded(
    client_with: Callable[..., Client], function: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(open_answers, "WAIT_S", 0.05)
    client = client_with(max_open_answer_files=4 * len(package()))  # a project may have half of it
    path = f"/v1/functions/{function['id']}"
    environ = testing.create_environ(path, query_string="download=true", host="localhost")
    waiting = [client.app(dict(environ), testing.StartResponseMock()) for _ in range(2)]
    assert_error(download(client, function), 503, "large answers")
    assert b"".join(waiting[0]) == package()
    waiting[0].close()
    assert download(client, function).content == package()


def test_a_download_of_what_has_become_too_large(
    client: Client, swift: FakeSwift, function: dict[str, Any]
) -> None:
    swift.objects["c", "o"] = bytes(256 * 1024 + 1)
    assert_error(download(client, function), 413, "larger")


def test_a_download_where_nobody_knows_of_swift(
    client: Client, function: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_caller(monkeypatch, token=None, url=None)
    assert_error(download(client, function), 501, "object-store")
