"""Functions act for whoever put their code in: real Keystone, real service, real workers."""

from __future__ import annotations

import copy
import importlib.metadata
import io
import json
import sqlite3
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from qinling_falcon.auth.identity import Identity
from qinling_falcon.auth.trusts import Trusts
from qinling_falcon.models import database, trusts
from qinling_falcon.models.migrate import migrate
from qinling_falcon.models.scope import Context
from qinling_falcon.settings_environment import read_settings
from tests.integration.service import Service, package, running_service, wait_until
from tests.servers.openstack import Keystone, Swift

BUNDLED = ("keystoneauth1", "requests", "urllib3", "certifi", "charset-normalizer", "idna", "iso8601", "stevedore",
           "os-service-types", "pbr", "typing-extensions")  # fmt: skip
PLAIN = """
def main(context):
    return [context["os_session"], context["os_session_error"]]
"""
AGENT = """
import glob, json, os, sys

def main(context, what="who"):
    if what == "exposed":
        print(context, dict(context))
        seen = [sys._getframe(1).f_locals["about"], repr(dict(os.environ))]
        for path in glob.glob("/proc/[0-9]*/environ") + glob.glob("/proc/[0-9]*/cmdline"):
            try:
                seen.append(open(path).read())
            except OSError:
                pass
        return seen
    assert "os_session" in context and context.get("os_session") is context["os_session"]
    session = context["os_session"]
    if session is None:
        return {"error": context["os_session_error"]}
    if what == "token":
        return session.get_token()
    if what == "containers":
        return session.get("?format=json", endpoint_filter={"service_type": "object-store"}).json()
    projects = session.get("/auth/projects", endpoint_filter={"service_type": "identity"}).json()["projects"]
    names = [project["name"] for project in projects]
    return {"project": session.get_project_id(), "user": session.get_user_id(), "projects": names}

def other(context):
    return main(context)
"""


def bundle(source: str) -> bytes:
    """A zip of `main` with keystoneauth1 and all that it needs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("main.py", source)
        for name in BUNDLED:
            for file in importlib.metadata.files(name) or []:
                if file.suffix in (".py", ".json", ".pem", ".so", ".txt") and not {"..", "tests"} & set(file.parts):
                    archive.write(file.locate(), str(file))
    return buffer.getvalue()


class User:
    """Somebody who calls the service."""

    def __init__(self, service: Service, token: str, zipped: bytes = b""):
        self.service = copy.copy(service)
        self.service.http = requests.Session()
        self.service.http.headers["X-Auth-Token"] = self.token = token
        self.zipped = zipped

    def send(self, method: str, path: str, zipped: bytes | None = None, **fields: str) -> requests.Response:
        files = {} if zipped is None else {"package": ("f.zip", zipped, "application/zip")}
        return self.service.request(method, path, data=fields, files=files)

    def function(self, zipped: bytes | None = None) -> str:
        """The id of a new function."""
        fields = {"name": "f", "runtime_id": self.service.runtime(), "code": '{"source": "package"}', "timeout": "20"}
        answer = self.send("POST", "/v1/functions", zipped or self.zipped, **fields, memory_size=str(128 << 20))
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def update(self, function_id: str, zipped: bytes | None = None, **fields: str) -> None:
        answer = self.send("PUT", f"/v1/functions/{function_id}", zipped, **fields)
        assert answer.status_code == 200, answer.text

    def ask(self, function_id: str, what: str = "who", **fields: Any) -> Any:
        """What the agent answers."""
        return output(self.service.call(function_id, json.dumps({"what": what}), **fields))


def output(execution: dict[str, Any]) -> Any:
    assert execution["status"] == "success", execution["result"]
    return json.loads(execution["result"])["output"]


@pytest.fixture(scope="module")
def service(keystone: Keystone, swift: Swift) -> Iterator[Service]:
    settings = keystone.settings() | {"network": "host", "keystone_timeout_s": "1.5", "log_level": "debug"}
    # With new interpreters, because a function looks for passwords in the processes' environment.
    with running_service(new_interpreters=True, max_workers=12, warm_workers=1, **settings) as running:
        User(running, keystone.token("admin")).service.runtime()
        yield running


@pytest.fixture(scope="module")
def zipped() -> bytes:
    return bundle(AGENT)


@pytest.fixture(scope="module")
def alice(service: Service, keystone: Keystone, zipped: bytes) -> User:
    return User(service, keystone.token("alice"), zipped)


@pytest.fixture(scope="module")
def bob_here(service: Service, keystone: Keystone, zipped: bytes) -> User:
    """Bob, whom alice's project has taken in."""
    admin, project = keystone.token("admin"), keystone.state["users"]["alice"]["project_id"]
    role = keystone.request("GET", "/roles?name=member", admin).json()["roles"][0]["id"]
    path = f"/projects/{project}/users/{keystone.state['users']['bob']['id']}/roles/{role}"
    assert keystone.request("PUT", path, admin).status_code == 204
    return User(service, keystone.token("bob", {"project": {"id": project}}), zipped)


PATHS = {"GET /v1/runtimes", "POST /v1/functions", "PUT /v1/functions/*", "POST /v1/executions"}
RULES = [
    {"service": "function-engine", "method": method, "path": path}
    for method, path in (request.split() for request in sorted(PATHS))
]
CREDENTIALS: dict[str, dict[str, Any]] = {
    "plain": {}, "unrestricted": {"unrestricted": True}, "access rules": {"access_rules": RULES}
}  # fmt: skip


@pytest.fixture(scope="module", params=CREDENTIALS)
def credential(request: pytest.FixtureRequest, service: Service, keystone: Keystone, zipped: bytes) -> User:
    """An application credential of alice."""
    alice = keystone.state["users"]["alice"]["id"]
    body = {"application_credential": {"name": request.param} | CREDENTIALS[request.param]}
    path = f"/users/{alice}/application_credentials"
    made = keystone.request("POST", path, keystone.token("alice"), json=body).json()["application_credential"]
    secret = {"id": made["id"], "secret": made["secret"]}
    auth = {"auth": {"identity": {"methods": ["application_credential"], "application_credential": secret}}}
    token = requests.post(f"{keystone.url}/auth/tokens", json=auth, timeout=30).headers["X-Subject-Token"]
    return User(service, token, zipped)


def trust_of(service: Service, function_id: str) -> str | None:
    with sqlite3.connect(service.var_dir / "qinling.db") as db:
        found = db.execute("SELECT trust_id FROM functions WHERE id = ?", [function_id]).fetchone()
    return None if found is None else found[0]


def is_there(keystone: Keystone, trust_id: str | None) -> bool:
    answer = keystone.request("GET", f"/OS-TRUST/trusts/{trust_id}", keystone.token("qinling"))
    assert answer.status_code in (200, 404), answer.text
    return answer.status_code == 200


def wait_until_gone(keystone: Keystone, trust_id: str | None) -> None:
    wait_until(f"trust {trust_id} is gone", lambda: not is_there(keystone, trust_id))


def person(keystone: Keystone, name: str) -> dict[str, Any]:
    """What the agent says when it acts for somebody in alice's project."""
    users = keystone.state["users"]
    projects = {"alice": ["projA"], "bob": ["projA", "projB"]}[name]
    return {"project": users["alice"]["project_id"], "user": users[name]["id"], "projects": projects}


def who(user: User, function_id: str, **fields: Any) -> dict[str, Any]:
    said = user.ask(function_id, **fields)
    return said | {"projects": sorted(said["projects"])} if "projects" in said else dict(said)


def test_function_acts_for_its_maker_by_a_trust(alice: User, service: Service, keystone: Keystone) -> None:
    function = alice.function()
    assert who(alice, function) == person(keystone, "alice")
    answer = keystone.request("GET", f"/OS-TRUST/trusts/{trust_of(service, function)}", keystone.token("qinling"))
    trust = answer.json()["trust"]
    assert {role["name"] for role in trust["roles"]} == {"member", "reader"}
    users = keystone.state["users"]
    for name, value in {
        "impersonation": True, "expires_at": None, "project_id": users["alice"]["project_id"],
        "trustor_user_id": users["alice"]["id"], "trustee_user_id": users["qinling"]["id"],
    }.items():  # fmt: skip
        assert trust[name] == value


def test_secrets_stay_where_they_belong(alice: User, service: Service, keystone: Keystone) -> None:
    function = alice.function()
    execution = alice.service.call(function, '{"what": "who"}')
    kept = {
        "answer": alice.service.request("GET", f"/v1/executions/{execution['id']}").text,
        "shown": alice.service.log_of(execution),
    }
    with redis.from_url(service.environ["REDIS_URL"]) as connection:
        kept |= {str(key): repr(connection.dump(key)) for key in connection.scan_iter()}
    with sqlite3.connect(service.var_dir / "qinling.db") as db:
        kept |= {table: repr(db.execute(f"SELECT * FROM {table}").fetchall()) for table in ("executions", "functions")}
    kept |= {path.name: path.read_text() for path in service.var_dir.glob("*.log")}
    assert execution["id"] in kept["web.log"]  # which tells much
    # From here on it is the function that puts them there.
    execution = alice.service.call(function, '{"what": "exposed"}')
    exposed, shown = output(execution), alice.service.log_of(execution)
    token, password = alice.ask(function, "token"), keystone.state["users"]["qinling"]["password"]
    assert json.loads(exposed[0])["openstack"].keys() == {"auth_url", "token", "about"}
    assert token in exposed[0]  # its own, if it digs for it
    assert not [text for text in [*exposed, shown] if password in text]
    assert function in shown  # it has printed its context
    assert token not in shown
    assert not [name for name, text in kept.items() if token in text or password in text]


def test_code_in_swift_needs_a_trust(
    alice: User, credential: User, service: Service, keystone: Keystone
) -> None:
    catalogue = keystone.log_in("alice").json()["token"]["catalog"]
    account = next(entry["endpoints"][0]["url"] for entry in catalogue if entry["type"] == "object-store")
    headers = {"X-Auth-Token": alice.token}
    for name, body in (("code", b""), ("code/f.zip", alice.zipped)):
        assert requests.put(f"{account}/{name}", body, headers=headers, timeout=30).status_code in (201, 202)
    code = json.dumps({"source": "swift", "swift": {"container": "code", "object": "f.zip"}})
    fields = {"name": "f", "runtime_id": alice.service.runtime(), "code": code, "timeout": "20"}
    answer = credential.send("POST", "/v1/functions", **fields)
    assert answer.status_code == 403
    assert "application credentials" in answer.json()["faultstring"]
    answer = alice.send("POST", "/v1/functions", **fields, memory_size=str(128 << 20))
    assert answer.status_code == 201, answer.text
    function = answer.json()["id"]
    assert "code" in [row["name"] for row in alice.ask(function, "containers")]
    trust_id = trust_of(service, function)
    answer = credential.send("PUT", f"/v1/functions/{function}", entry="main.other")
    assert answer.status_code == 403
    assert trust_of(service, function) == trust_id


def test_a_service_without_an_admins_role_deletes_its_own_doomed_trusts_alone(
    keystone: Keystone, tmp_path: Path
) -> None:
    admin = keystone.token("admin")
    body = {"user": {"name": "modest", "password": "modestpw", "domain_id": "default"}}
    user = keystone.request("POST", "/users", admin, json=body).json()["user"]["id"]
    role = keystone.request("GET", "/roles?name=service", admin).json()["roles"][0]["id"]
    project = keystone.state["users"]["qinling"]["project_id"]
    path = f"/projects/{project}/users/{user}/roles/{role}"
    assert keystone.request("PUT", path, admin).status_code == 204
    account = {"OS_USERNAME": "modest", "OS_PASSWORD": "modestpw", "VAR_DIR": str(tmp_path)}
    settings = read_settings(keystone.settings() | account)
    about = keystone.state["users"]["alice"]
    member = keystone.request("GET", "/roles?name=member", admin).json()["roles"][0]["id"]
    context = Context(about["project_id"], False, about["id"], ("member",))
    alice = Identity(context, keystone.token("alice"), role_ids=(member,))
    mine, another_installs = Trusts(settings), Trusts(settings)
    migrate(settings)
    database.connect(settings)
    try:
        doomed, gone, other = mine.make(alice), mine.make(alice), another_installs.make(alice)
        assert keystone.request("DELETE", f"/OS-TRUST/trusts/{gone}", admin).status_code == 204
        trusts.doom_unnamed(doomed)
        trusts.doom_unnamed(gone)
        assert set(mine.sweep()) == {doomed, gone}
        assert mine.sweep() == trusts.doomed() == []
    finally:
        database.disconnect()
    assert not is_there(keystone, doomed)
    assert keystone.request("GET", f"/OS-TRUST/trusts/{other}", admin).status_code == 200


def test_without_keystoneauth_there_is_no_session(alice: User) -> None:
    session, error = output(alice.service.call(alice.function(package(main=PLAIN))))
    assert session is None
    assert "no keystoneauth1" in error


def test_whoever_changes_what_runs_vouches_for_it(
    alice: User, bob_here: User, service: Service, keystone: Keystone
) -> None:
    function = alice.function()
    first = trust_of(service, function)
    answer = alice.service.request("POST", f"/v1/functions/{function}/versions", json={})
    assert answer.status_code == 201, answer.text
    bob_here.update(function, cpu="200")
    assert trust_of(service, function) == first
    bob_here.update(function, bundle(AGENT + "# new"))
    second = trust_of(service, function)
    assert who(alice, function) == person(keystone, "bob")
    assert who(bob_here, function, function_version=1) == person(keystone, "alice")
    assert is_there(keystone, first)  # the version's
    alice.update(function, entry="main.other")
    wait_until_gone(keystone, second)
    third = trust_of(service, function)
    assert output(alice.service.call(function)) == person(keystone, "alice")
    assert alice.service.request("DELETE", f"/v1/functions/{function}/versions/1").status_code == 204
    wait_until_gone(keystone, first)
    assert is_there(keystone, third)
    assert bob_here.service.request("DELETE", f"/v1/functions/{function}").status_code == 204
    wait_until_gone(keystone, third)


def test_who_can_make_no_trust_runs_without_a_session(
    alice: User, credential: User, service: Service, keystone: Keystone
) -> None:
    function = credential.function()
    assert trust_of(service, function) is None
    assert credential.ask(function) == {"error": "the function has no trust"}
    function = alice.function()
    trust_id, token = trust_of(service, function), alice.ask(function, "token")
    by_trust = User(service, token, alice.zipped).function(package(main=PLAIN))
    assert trust_of(service, by_trust) is None
    credential.update(function, bundle(AGENT + "# other"))
    assert trust_of(service, function) is None
    assert alice.ask(function) == {"error": "the function has no trust"}
    wait_until_gone(keystone, trust_id)


def test_calls_go_on_without_their_trust_until_new_code_brings_another(
    alice: User, service: Service, keystone: Keystone
) -> None:
    function = alice.function()
    path = f"/OS-TRUST/trusts/{trust_of(service, function)}"
    assert keystone.request("DELETE", path, alice.token).status_code == 204
    assert "Keystone refuses the function's trust" in alice.ask(function)["error"]
    alice.update(function, alice.zipped)
    assert who(alice, function) == person(keystone, "alice")


def test_refused_writes_leave_no_trust(alice: User, keystone: Keystone) -> None:
    path = f"/OS-TRUST/trusts?trustor_user_id={keystone.state['users']['alice']['id']}"

    def made() -> set[str]:
        return {trust["id"] for trust in keystone.request("GET", path, alice.token).json()["trusts"]}

    before = made()
    fields = {"name": "f", "code": '{"source": "package"}', "runtime_id": str(uuid.uuid4())}
    assert alice.send("POST", "/v1/functions", package(main=PLAIN), **fields).status_code == 404
    wait_until("its trust is gone", lambda: made() == before)


def test_others_have_no_part_in_it(alice: User, service: Service, keystone: Keystone) -> None:
    function = alice.function(package(main=PLAIN))
    trust_id = trust_of(service, function)
    bob, admin = User(service, keystone.token("bob")), User(service, keystone.token("admin"))
    assert bob.send("PUT", f"/v1/functions/{function}", package(main=PLAIN)).status_code == 404
    assert admin.send("PUT", f"/v1/functions/{function}", package(main=PLAIN)).status_code == 403
    assert bob.service.request("DELETE", f"/v1/functions/{function}").status_code == 404
    assert trust_of(service, function) == trust_id
    assert is_there(keystone, trust_id)


def test_calls_go_on_while_keystone_hangs(alice: User, service: Service, keystone: Keystone) -> None:
    held, new = alice.function(), alice.function()
    assert who(alice, held) == person(keystone, "alice")
    with keystone.hung():
        assert alice.ask(new) == {"error": "Keystone does not answer as it should"}
        assert alice.ask(new) == {"error": "Keystone does not answer as it should"}
        assert alice.ask(held, "exposed")
        assert alice.send("POST", "/v1/functions", package(main=PLAIN), name="f", runtime_id=alice.service.runtime(),
                          code='{"source": "package"}').status_code == 503  # fmt: skip
    wait_until("there are sessions again", lambda: "user" in alice.ask(new))


def test_trusts_of_functions_that_went_while_keystone_was_away_are_deleted_later(
    alice: User, service: Service, keystone: Keystone
) -> None:
    function = alice.function(package(main=PLAIN))
    trust_id = trust_of(service, function)
    path = f"/v1/functions/{function}"
    assert is_there(keystone, trust_id)
    with keystone.stopped():
        assert alice.service.request("DELETE", path).status_code == 204
        assert alice.service.request("GET", path).status_code == 404
    service.stop("pool")
    service.start_pool()  # which sweeps first of all
    wait_until_gone(keystone, trust_id)
