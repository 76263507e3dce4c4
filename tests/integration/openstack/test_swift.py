"""Functions in Swift: real Keystone, real Swift, real service, real workers."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.integration.service import Service, package, running_service, wait_until
from tests.servers.openstack import Keystone, Swift

MOST = 200_000
CONTAINER = "functions"


@functools.cache  # a zip has the time in it
def code(text: str) -> bytes:
    return package(main=f"def main():\n    return {text!r}\n")


class User:
    """Somebody who calls the service, and has an account in Swift."""

    def __init__(self, service: Service, keystone: Keystone, name: str):
        login = keystone.log_in(name)
        assert login.status_code == 201, login.text
        self.service = copy.copy(service)
        self.service.http = requests.Session()
        self.token = self.service.http.headers["X-Auth-Token"] = login.headers["X-Subject-Token"]
        catalog = login.json()["token"]["catalog"]
        self.account = next(
            (entry["endpoints"][0]["url"] for entry in catalog if entry["type"] == "object-store"), "no Swift"
        )
        self.id = login.json()["token"]["user"]["id"]

    def swift(self, method: str, name: str, content: bytes = b"", query: str = "") -> requests.Response:
        url = f"{self.account}/{CONTAINER}{'/' * bool(name)}{name}{query}"
        answer = requests.request(method, url, data=content, headers={"X-Auth-Token": self.token}, timeout=30)
        assert answer.ok, f"{method} {url}: {answer.status_code} {answer.text}"
        return answer

    def put(self, content: bytes, name: str | None = None) -> str:
        """An object's name, of its own if none is given."""
        name = name or f"{uuid.uuid4().hex}.zip"
        self.swift("PUT", name, content)
        return name

    def make(self, name: str, **more: Any) -> requests.Response:
        source = {"source": "swift", "swift": {"container": CONTAINER, "object": name}} | more
        body = {"name": "s", "runtime_id": self.service.runtime(), "code": source}
        return self.service.request("POST", "/v1/functions", json=body)

    def function(self, name: str) -> str:
        made = self.make(name)
        assert made.status_code == 201, f"{made.text}\n{self.service.logs()}"
        return str(made.json()["id"])

    def call(self, function_id: str) -> requests.Response:
        return self.service.request("POST", "/v1/executions", json={"function_id": function_id})

    def output(self, function_id: str) -> str:
        return str(json.loads(self.service.call(function_id)["result"])["output"])

    def refused(self, function_id: str, *words: str) -> None:
        """It does not run, and why is said."""
        answer = self.call(function_id)
        assert answer.status_code == 409, answer.text
        for word in words:
            assert word in answer.json()["faultstring"]

    def get(self, function_id: str, query: str = "") -> requests.Response:
        return self.service.request("GET", f"/v1/functions/{function_id}{query}")


@pytest.fixture(scope="module")
def service(keystone: Keystone, swift: Swift) -> Iterator[Service]:
    """Two web processes; each looks before each call."""
    settings = {"swift_check_s": 0, "swift_timeout_s": 2, "keystone_timeout_s": 2, "max_package_size": MOST}
    with running_service(max_workers=12, warm_workers=2, **settings, **keystone.settings()) as running:
        User(running, keystone, "admin").service.runtime()
        yield running


@pytest.fixture(scope="module")
def alice(service: Service, keystone: Keystone) -> User:
    user = User(service, keystone, "alice")
    user.swift("PUT", "")
    return user


@pytest.fixture(scope="module")
def bob(service: Service, keystone: Keystone) -> User:
    return User(service, keystone, "bob")


def copies(service: Service) -> set[str]:
    return {path.name for path in (service.var_dir / "packages").iterdir()}


def test_a_function_of_an_object_runs_is_sent_and_goes_with_its_copy(alice: User) -> None:
    before = copies(alice.service)
    content = code("from swift")
    function_id = alice.function(alice.put(content))
    assert alice.output(function_id) == "from swift"
    row = alice.get(function_id).json()
    assert json.loads(row["code"])["md5sum"] == hashlib.md5(content).hexdigest()
    sent = alice.get(function_id, "?download=true")
    assert (sent.status_code, sent.content) == (200, content)
    assert sent.headers["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
    head = alice.service.request("HEAD", f"/v1/functions/{function_id}?download=true")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(content)))
    version = alice.service.request("POST", f"/v1/functions/{function_id}/versions", json={})
    assert version.status_code == 403
    assert len(copies(alice.service) - before) == 1
    assert alice.service.request("DELETE", f"/v1/functions/{function_id}").status_code == 204
    assert copies(alice.service) == before


def test_what_can_not_be_a_function_is_refused_and_leaves_nothing(alice: User, bob: User) -> None:
    before = copies(alice.service)
    good = alice.put(code("good"))
    assert alice.make("nothing.zip").status_code == 400
    assert alice.make(alice.put(b"no zip")).status_code == 400
    assert alice.make(alice.put(bytes(MOST + 1))).status_code == 413
    assert alice.make(good, md5sum="0" * 32).status_code == 400
    assert bob.make(good).status_code == 400  # there is none in his account
    account = alice.account.rsplit("/", 1)[1]
    for place in (
        {"container": f"../{account}/{CONTAINER}", "object": good},
        {"container": CONTAINER, "object": f"../../{account}/{CONTAINER}/{good}"},
        {"container": "..", "object": f"{account}/{CONTAINER}/{good}"},
        {"container": ".", "object": good},
    ):
        answer = bob.make("x", swift=place)
        assert (answer.status_code, "code" in answer.json()["errors"]) == (400, True), answer.text
    assert copies(alice.service) == before


def test_a_changed_object_runs_from_the_next_call_on(alice: User) -> None:
    name = alice.put(code("old"))
    function_id = alice.function(name)
    before = copies(alice.service)
    row = alice.get(function_id).json()
    assert alice.output(function_id) == "old"
    alice.put(code("new"), name)
    with ThreadPoolExecutor(8) as threads:  # in both web processes at once
        outputs = set(threads.map(lambda _: alice.output(function_id), range(16)))
    assert outputs == {"new"}
    changed = alice.get(function_id).json()
    assert json.loads(changed["code"])["md5sum"] == hashlib.md5(code("new")).hexdigest()
    assert (changed["updated_at"], len(copies(alice.service))) == (row["updated_at"], len(before))


def test_a_scaled_up_function_is_loaded_as_it_is_in_swift_now(
    alice: User, service: Service, keystone: Keystone
) -> None:
    name = alice.put(code("old"))
    function_id = alice.function(name)
    alice.put(code("new"), name)
    admin = User(service, keystone, "admin")
    assert admin.service.request("POST", f"/v1/functions/{function_id}/scale_up", json={"count": 1}).status_code == 202
    assert json.loads(alice.get(function_id).json()["code"])["md5sum"] == hashlib.md5(code("new")).hexdigest()
    alice.swift("DELETE", name)
    wait_until(
        "it is refused",
        lambda: admin.service.request("POST", f"/v1/functions/{function_id}/scale_up", json={}).status_code == 409,
    )


@pytest.mark.parametrize(
    ("content", "word"), [(None, "gone"), (b"no zip", "zip"), (bytes(MOST + 1), "larger")], ids=["gone", "none", "huge"]
)
def test_an_object_that_is_no_package_any_more_stops_calls_until_it_is_one_again(
    alice: User, content: bytes | None, word: str
) -> None:
    name = alice.put(code("old"))
    function_id = alice.function(name)
    before = copies(alice.service)
    assert alice.output(function_id) == "old"
    if content is None:
        alice.swift("DELETE", name)
    else:
        alice.put(content, name)
    alice.refused(function_id, name, word)
    alice.refused(function_id, name, word)
    assert copies(alice.service) == before
    alice.put(code("back"), name)
    wait_until("it runs again", lambda: alice.call(function_id).status_code == 201)
    assert alice.output(function_id) == "back"


def test_an_update_moves_it(alice: User) -> None:
    first, second = alice.put(code("first")), alice.put(code("second"))
    function_id = alice.function(first)
    before = copies(alice.service)
    assert alice.output(function_id) == "first"
    source = {"source": "swift", "swift": {"object": second}}
    moved = alice.service.request("PUT", f"/v1/functions/{function_id}", json={"code": source})
    assert moved.status_code == 200, moved.text
    assert moved.json()["code"]["swift"] == {"container": CONTAINER, "object": second}
    assert alice.output(function_id) == "second"
    alice.swift("DELETE", first)
    assert alice.output(function_id) == "second"
    assert len(copies(alice.service)) == len(before)


def test_an_object_of_segments_is_like_any_other(alice: User) -> None:
    content = code("of segments")
    half = len(content) // 2
    parts = [alice.put(part) for part in (content[:half], content[half:])]
    manifest = json.dumps([{"path": f"/{CONTAINER}/{part}"} for part in parts]).encode()
    name = f"{uuid.uuid4().hex}.zip"
    alice.swift("PUT", name, manifest, "?multipart-manifest=put")
    function_id = alice.function(name)
    assert alice.output(function_id) == "of segments"
    assert json.loads(alice.get(function_id).json()["code"])["md5sum"] == hashlib.md5(content).hexdigest()
    assert alice.get(function_id, "?download=true").content == content
    other = code("of other segments")
    parts = [alice.put(part) for part in (other[:half], other[half:])]
    manifest = json.dumps([{"path": f"/{CONTAINER}/{part}"} for part in parts]).encode()
    alice.swift("PUT", name, manifest, "?multipart-manifest=put")
    assert alice.output(function_id) == "of other segments"
    alice.swift("DELETE", parts[0])  # a hole in it: Swift has troubles, and the copy runs
    assert alice.output(function_id) == "of other segments"
    assert alice.make(name).status_code in (400, 503)  # Swift answers 409, or 500


@pytest.mark.parametrize("server", ["proxy", "object"])
@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_while_swift_is_away_copies_run_and_nothing_is_fetched(
    alice: User, swift: Swift, how: str, server: str
) -> None:
    name = alice.put(code("copy"))
    function_id = alice.function(name)
    before = copies(alice.service)
    with getattr(swift, how)(server):
        for _ in range(3):
            assert alice.output(function_id) == "copy"
        with ThreadPoolExecutor(2) as threads:
            answers = [threads.submit(alice.make, name), threads.submit(alice.get, function_id, "?download=true")]
        for answer in (answer.result() for answer in answers):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
    assert copies(alice.service) == before
    if (how, server) == ("stopped", "proxy"):
        alice.put(code("changed"), name)
        wait_until("the change is seen", lambda: alice.output(function_id) == "changed")


def test_while_keystone_hangs_copies_run(alice: User, keystone: Keystone) -> None:
    function_id = alice.function(alice.put(code("copy")))
    assert alice.output(function_id) == "copy"
    with keystone.hung():
        for _ in range(3):
            assert alice.output(function_id) == "copy"


def test_without_its_trust_a_function_does_not_run(alice: User, keystone: Keystone) -> None:
    def trusts() -> set[str]:
        found = keystone.request("GET", f"/OS-TRUST/trusts?trustor_user_id={alice.id}", alice.token)
        return {trust["id"] for trust in found.json()["trusts"]}

    others = trusts()
    name = alice.put(code("trusted"))
    function_id = alice.function(name)
    assert alice.output(function_id) == "trusted"
    (own,) = trusts() - others
    assert keystone.request("DELETE", f"/OS-TRUST/trusts/{own}", alice.token).status_code == 204
    wait_until("it is refused", lambda: alice.call(function_id).status_code == 409)
    alice.refused(function_id, "trust")
    source = {"source": "swift", "swift": {"container": CONTAINER, "object": name}}
    again = alice.service.request("PUT", f"/v1/functions/{function_id}", json={"code": source})
    assert again.status_code == 200, again.text
    assert alice.output(function_id) == "trusted"


def test_no_log_holds_a_token(alice: User, service: Service) -> None:
    for path in service.var_dir.glob("*.log"):
        assert alice.token[:30] not in path.read_text()
