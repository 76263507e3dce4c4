"""If a package can't be loaded, the execution fails once with the reason, and no worker is lost.

Uploads are checked, so the packages are spoiled on the disk, as a broken disk or an older release would leave them.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from tests.integration.service import Service, package, running_service
from tests.support.disks import mounted_disk

pytestmark = pytest.mark.xdist_group("unloadable-packages")
MIB = 1 << 20


def large() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(3):
            archive.writestr(f"{number}.bin", bytes(100 * MIB))
    return buffer.getvalue()


def slow_to_unpack() -> bytes:
    """2 GB of zeros, of which only one file is compressed here: all others have the same bytes."""
    first, buffer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(first, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("0.bin", bytes(64 * MIB))
        made = archive.infolist()[0]
    compressed = first.getvalue()[len(made.FileHeader()) :][: made.compress_size]
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(30):
            info = copy.copy(made)
            info.filename, info.header_offset = f"{number}.bin", buffer.tell()
            buffer.write(info.FileHeader() + compressed)
            archive.filelist.append(info)
        archive.start_dir = buffer.tell()
    return buffer.getvalue()


SPOILED: dict[str, tuple[Callable[[], bytes], str]] = {
    "no zip": (lambda: b"PK but no zip" * 100, "The package is not a zip archive."),
    "a cut zip": (lambda: package(main="def main(): pass")[:-30], "The package is cut off"),
    "other content than it declares": (
        lambda: package(main="def main(): return 1").replace(b"return 1", b"return 2"),
        "not what it declares: 'main.py'",
    ),
    "too large unpacked": (large, "at most 268435456 are allowed"),
    "more bytes than a worker takes": (lambda: bytes(300 * MIB), "larger than"),
}


def spoiled(service: Service, data: bytes) -> str:
    """The id of a function whose stored package was replaced by `data`."""
    folder = service.var_dir / "packages"
    before = set(folder.iterdir())
    function_id = service.function("def main(): return 1")
    (stored,) = set(folder.iterdir()) - before
    stored.write_bytes(data)
    return function_id


def workers(service: Service) -> set[str]:
    """The ids of all workers."""
    return {row["id"] for row in service.request("GET", "/v1/pool/workers", params={"limit": 1000}).json()}


def call(service: Service, function_id: str) -> requests.Response:
    return service.request("POST", "/v1/executions", json={"function_id": function_id})


@pytest.mark.parametrize("name", SPOILED)
def test_a_call_fails_with_the_reason_and_ends_no_worker(service: Service, name: str) -> None:
    make, reason = SPOILED[name]
    assert call(service, service.function("def main(): return 1")).json()["status"] == "success"
    function_id, before = spoiled(service, make()), workers(service)

    for _ in range(3):
        answer = call(service, function_id)
        assert answer.status_code == 201, answer.text
        execution = answer.json()
        assert execution["status"] == "failed", execution
        assert reason in json.loads(execution["result"])["output"]
        log = service.log_of(execution)
        assert log == f"Start execution: {execution['id']}\nFinished execution: {execution['id']}\n"

    assert before <= workers(service)
    rows = service.request("GET", "/v1/executions", params={"function_id": function_id}).json()
    assert [row["status"] for row in rows] == ["failed"] * 3
    assert service.request("GET", f"/v1/functions/{function_id}/workers").json() == []


def test_a_call_with_a_large_input_fails_in_the_same_way(service: Service) -> None:
    function_id = spoiled(service, b"no zip")
    execution = service.call(function_id, json.dumps({"text": "x" * 100_000}))
    assert execution["status"] == "failed"
    assert len(service.request("GET", f"/v1/executions/{execution['id']}").json()["input"]) > 100_000


def test_scaling_up_says_why_and_ends_no_worker(service: Service) -> None:
    function_id = spoiled(service, b"no zip")
    before = workers(service)
    for _ in range(5):
        answer = service.request("POST", f"/v1/functions/{function_id}/scale_up", json={"count": 2})
        assert answer.status_code == 409, answer.text
        assert "can't be loaded: The package is not a zip archive." in answer.json()["faultstring"]
    # Calls go on meanwhile, so that the pool manager has ended what was to be ended.
    assert call(service, service.function("def main(): return 1")).json()["status"] == "success"
    assert before <= workers(service)
    assert service.request("GET", f"/v1/functions/{function_id}/workers").json() == []


def test_an_import_that_fails_is_reported_once_and_ends_no_other_worker(service: Service) -> None:
    function_id = service.function("import nothing_of_this_name\ndef main(): pass\n")
    before = workers(service)
    for _ in range(2):
        execution = call(service, function_id).json()
        assert execution["status"] == "failed"
        assert "nothing_of_this_name" in json.loads(execution["result"])["output"]
    assert before <= workers(service)


def test_a_package_that_is_loaded_too_slowly_fails_once() -> None:
    with running_service(
        max_workers=4, unpack_timeout_s=0.5, max_unpacked_size=4096 * MIB, max_package_size=60 * MIB
    ) as own:
        function_id = spoiled(own, slow_to_unpack())
        answer = call(own, function_id)
        assert answer.status_code == 201, answer.text
        assert answer.json()["status"] == "failed"
        assert "within 0.5 s" in json.loads(answer.json()["result"])["output"]


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 8 MiB."""
    with mounted_disk("size=8m,mode=0755") as folder:
        yield folder


def test_a_full_disk_is_the_platforms_failure_and_is_tried_once(small_disk: Path, tmp_path: Path) -> None:
    with running_service(f"sqlite:///{tmp_path}/qinling.sqlite3", max_workers=3, var_dir=small_disk) as own:
        own.var_dir = small_disk
        function_id = own.function(f"def main(): return 1\nTEXT = {'x' * 1000!r}")
        assert own.call(own.function("def main(): return 1"))["status"] == "success"
        before = workers(own)
        with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                continue

        execution = own.call(function_id)
        assert execution["status"] == "error", execution
        assert execution["status_reason"] == (
            "The workers' disk is full: No space left on device. The function has not run; try again later."
        )
        answer = own.request("POST", f"/v1/functions/{function_id}/scale_up", json={"count": 1})
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert "The workers' disk is full" in answer.json()["faultstring"]
        (small_disk / "filler").unlink()

        assert own.call(function_id)["status"] == "success"
        assert before <= workers(own)
