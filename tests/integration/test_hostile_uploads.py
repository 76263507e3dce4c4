"""Hostile uploads are refused with the right status and reason, over real HTTP, and leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from tests.integration.service import Service, package, running_service
from tests.storage.archives import Raw, raw_zip

pytestmark = pytest.mark.xdist_group("hostile-uploads")  # one service for all of them


def zipped(fill: Callable[[zipfile.ZipFile], Any]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        fill(archive)
    return buffer.getvalue()


def link(archive: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo("shadow")
    entry.create_system = 3
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(entry, "/etc/shadow")


def link_through_a_link(archive: zipfile.ZipFile) -> None:
    archive.writestr("main.py", "")
    for name, target in (("lib/up", ".."), ("out", "lib/up/../etc/passwd")):
        entry = zipfile.ZipInfo(name)
        entry.create_system = 3
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, target)


def folders(depth: int) -> Callable[[zipfile.ZipFile], None]:
    def fill(archive: zipfile.ZipFile) -> None:
        for number in range(200):
            archive.writestr(f"{number:04}/" + "a/" * depth + "b", "")

    return fill


def many(archive: zipfile.ZipFile) -> None:
    for number in range(100_000):
        archive.writestr(zipfile.ZipInfo(f"f{number}"), b"")


UPLOADS: dict[str, tuple[Callable[[], bytes], int]] = {
    "not a zip": (lambda: b"PK but no zip" * 100, 400),
    "no bytes at all": (lambda: b"", 400),
    "an empty zip": (lambda: zipped(lambda archive: None), 400),
    "a name that climbs out": (lambda: zipped(lambda archive: archive.writestr("../../evil.py", "x")), 400),
    "an absolute name": (lambda: zipped(lambda archive: archive.writestr("/etc/cron.d/evil", "x")), 400),
    "a link": (lambda: zipped(link), 400),
    "a link through a link": (lambda: zipped(link_through_a_link), 400),
    "an entry without a name": (lambda: raw_zip([Raw(b"main.py"), Raw(b"")]), 400),
    "deep folders": (lambda: zipped(folders(400)), 400),
    "20,000 folders that names imply": (lambda: zipped(folders(98)), 413),
    "a bomb": (lambda: zipped(lambda archive: archive.writestr("bomb", bytes(300 << 20))), 413),
    "100,000 files": (lambda: zipped(many), 413),
    "a cut zip": (lambda: package(main="def main(): pass")[:-20], 400),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_hostile_upload_is_refused_and_leaves_nothing(service: Service, name: str) -> None:
    make, status = UPLOADS[name]
    form = {"name": "f", "runtime_id": service.runtime(), "entry": "main.main", "code": '{"source": "package"}'}
    before = service.request("GET", "/v1/functions").json()

    answer = service.request(
        "POST", "/v1/functions", data=form, files={"package": ("f.zip", make(), "application/zip")}
    )

    assert answer.status_code == status, answer.text
    assert answer.json()["faultcode"] == "Client"
    assert answer.json()["faultstring"]
    assert service.request("GET", "/v1/functions").json() == before
    stored = {path for path in (service.var_dir / "packages").rglob("*") if path.is_file()}
    assert len(stored) == len(before)


def test_wrong_md5_is_refused_and_the_right_one_is_taken(service: Service) -> None:
    data = package(main="def main(): pass")
    form = {"name": "f", "runtime_id": service.runtime(), "entry": "main.main"}
    for md5sum, status in (("0" * 32, 400), (hashlib.md5(data).hexdigest(), 201)):
        code = json.dumps({"source": "package", "md5sum": md5sum})
        answer = service.request(
            "POST", "/v1/functions", data=form | {"code": code}, files={"package": ("f.zip", data)}
        )
        assert answer.status_code == status, answer.text


def test_upload_without_a_length_is_refused(service: Service) -> None:
    def chunks() -> Any:
        yield b"--x\r\n"
        yield b'Content-Disposition: form-data; name="name"\r\n\r\nf\r\n--x--\r\n'

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert service.request("POST", "/v1/functions", data=chunks(), headers=headers).status_code == 411


def test_package_above_the_limit_is_refused(service: Service) -> None:
    data = zipped(lambda archive: archive.writestr(zipfile.ZipInfo("blob"), bytes(52 << 20)))
    form = {"name": "f", "runtime_id": service.runtime(), "entry": "main.main", "code": '{"source": "package"}'}
    answer = service.request("POST", "/v1/functions", data=form, files={"package": ("f.zip", data)})
    assert answer.status_code == 413, answer.text


def test_uploads_of_a_project_that_are_too_many_at_once_are_refused_for_a_moment() -> None:
    bomb = zipped(lambda archive: archive.writestr("zeros", bytes(250 << 20)))
    with running_service(max_workers=4, web_concurrency=1, project_uploads=2) as own:
        form = {"name": "f", "runtime_id": own.runtime(), "entry": "main.main", "code": '{"source": "package"}'}

        def upload(_: int) -> requests.Response:
            return requests.post(own.url + "/v1/functions", data=form, files={"package": ("f.zip", bomb)}, timeout=60)

        with ThreadPoolExecutor(8) as threads:
            answers = list(threads.map(upload, range(8)))
        refused = [answer for answer in answers if answer.status_code != 201]
        assert 0 < len(refused) < 8
        for answer in refused:
            assert answer.status_code == 503, answer.text
            assert "at most 2 at once (PROJECT_UPLOADS)" in answer.json()["faultstring"]
            assert int(answer.headers["Retry-After"]) > 0
        stored = [path for path in (own.var_dir / "packages").iterdir() if path.is_file()]
        assert len(stored) == 8 - len(refused)
        assert upload(0).status_code == 201
