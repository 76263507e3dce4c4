"""Packages in a real Swift: two services, as on two machines, that share a database and nothing else."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from qinling_falcon.settings_environment import read_settings
from qinling_falcon.storage.objects import ObjectMissing
from qinling_falcon.storage.packages import PackageMissing
from qinling_falcon.storage.swift_packages import SwiftPackages
from tests.integration.service import Service, package, running_service, wait_until
from tests.servers.openstack import Keystone, Swift

SOURCE = "def main():\n    return {!r}\n"


@pytest.fixture(scope="module")
def environ(keystone: Keystone, swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return keystone.settings() | {
        "AUTH_MODE": "noauth",
        "PACKAGE_STORAGE": "swift",
        "SWIFT_TIMEOUT_S": "3",
        "KEYSTONE_TIMEOUT_S": "2",
        "DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('shared')}/shared.db",
        "WEB_CONCURRENCY": "1",
        "WARM_WORKERS": "1",
        "MAX_WORKERS": "6",
    }


@pytest.fixture(scope="module")
def first(environ: dict[str, Any]) -> Iterator[Service]:
    with running_service(**environ) as running:
        running.runtime()
        yield running


@pytest.fixture(scope="module")
def second(first: Service, environ: dict[str, Any]) -> Iterator[Service]:
    with running_service(**environ) as running:
        yield running


@pytest.fixture
def packages(environ: dict[str, Any], tmp_path: Path) -> SwiftPackages:
    return SwiftPackages(read_settings(environ | {"VAR_DIR": str(tmp_path)}))


def output(service: Service, function_id: str) -> Any:
    return json.loads(service.call(function_id)["result"])["output"]


def everything(packages: SwiftPackages) -> set[str]:
    """What the container holds."""
    try:
        return packages._do(lambda account: {entry.name for entry in packages._swift.list(account, "qinling-packages")})
    except ObjectMissing:
        return set()


def test_what_one_machine_stored_another_runs_sends_and_deletes(
    first: Service, second: Service, packages: SwiftPackages
) -> None:
    before = everything(packages)
    function_id = first.function(SOURCE.format("shared"))
    (key,) = everything(packages) - before
    for service in (first, second):
        assert not (service.var_dir / "packages").exists()
        assert list((service.var_dir / "uploads").iterdir()) == []
        assert output(service, function_id) == "shared"
    sent = second.request("GET", f"/v1/functions/{function_id}?download=true")
    assert (sent.status_code, sent.content) == (200, packages.read(key))
    assert sent.headers["Content-Length"] == str(len(sent.content))
    version = second.request("POST", f"/v1/functions/{function_id}/versions", json={})
    assert version.status_code == 201
    assert first.call(function_id, function_version=1)["status"] == "success"
    assert second.request("DELETE", f"/v1/functions/{function_id}").status_code == 204
    with pytest.raises(PackageMissing):
        packages.read(key)
    assert everything(packages) == before


def test_a_replaced_package_goes(first: Service, packages: SwiftPackages) -> None:
    function_id = first.function(SOURCE.format("old"))
    before = everything(packages)
    files = {"package": ("f.zip", package(main=SOURCE.format("new")), "application/zip")}
    assert first.request("PUT", f"/v1/functions/{function_id}", files=files).status_code == 200
    assert output(first, function_id) == "new"
    assert len(everything(packages)) == len(before)
    assert not everything(packages) >= before


def test_the_sweep_leaves_what_is_known(packages: SwiftPackages) -> None:
    known = everything(packages)
    keys = {packages.save(io.BytesIO(package(main="x = 1")), 10_000, project_id="p").key for _ in range(2)}
    assert packages.sweep(lambda: known, older_than_s=3600) == []
    removed = packages.sweep(lambda: known, older_than_s=-60)
    assert set(removed) == keys
    assert everything(packages) == known


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_while_swift_is_away_loaded_functions_run_and_others_are_told(
    first: Service, swift: Swift, packages: SwiftPackages, how: str
) -> None:
    loaded, other = first.function(SOURCE.format("loaded")), first.function(SOURCE.format("other"))
    assert output(first, loaded) == "loaded"
    rows = len(first.request("GET", "/v1/functions").json())
    workers = set(first.request("GET", f"/v1/functions/{loaded}/workers").text.split())
    with getattr(swift, how)("proxy"):
        assert output(first, loaded) == "loaded"
        with ThreadPoolExecutor(3) as threads:
            answers = [
                threads.submit(first.request, "POST", "/v1/executions", json={"function_id": other}),
                threads.submit(first.request, "GET", f"/v1/functions/{other}?download=true"),
                threads.submit(first.upload, SOURCE.format("new")),
            ]
        for answer in (answer.result() for answer in answers):
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1"), answer.text
        assert first.request("GET", f"/v1/executions?function_id={other}").json() == []  # nothing has run
        assert set(first.request("GET", f"/v1/functions/{loaded}/workers").text.split()) == workers
        assert first.request("DELETE", f"/v1/functions/{loaded}").status_code == 204
        assert len(first.request("GET", "/v1/functions").json()) == rows - 1
    assert output(first, other) == "other"


@pytest.mark.parametrize("how", ["stopped", "hung"])
def test_while_swift_is_away_calls_wait_for_a_busy_worker_that_holds_their_function(
    first: Service, swift: Swift, how: str
) -> None:
    function = first.function("import time\ndef main(s=0):\n    time.sleep(s)\n    return 'done'\n")
    assert output(first, function) == "done"
    first.stop("web")
    first.start_web()  # which has no packages at hand
    wait_until("web is there", lambda: first.request("GET", "/healthz").status_code == 200)
    body = {"function_id": function, "input": {"s": 0.5}}
    with getattr(swift, how)("proxy"), ThreadPoolExecutor(3) as threads:
        answers = [threads.submit(first.request, "POST", "/v1/executions", json=body) for _ in range(3)]
        told = [answer.result() for answer in answers]
    assert [answer.status_code for answer in told] == [201] * 3, [answer.text for answer in told]
    assert {answer.json()["status"] for answer in told} == {"success"}
