"""Hostile uploads are refused with the right status and reason, over real HTTP, and leave nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from tests.integration.service import Service, package

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
