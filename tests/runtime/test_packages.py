"""Invalid and hostile packages: each is refused with a clear message, and nothing is written outside the folder."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from tests.runtime.client import MIB, SECRET, Worker, package
from tests.runtime.conftest import MakeWorker

GOOD = package("def main(): return 'fine'\n")


def links(**targets: str) -> bytes:
    """A package with the given links, followed by a module `main` that reads the file `link`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, target in targets.items():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = 0o120777 << 16
            archive.writestr(info, target)
        archive.writestr("main.py", "def main(): return open('link/data.txt').read()\n")
        archive.writestr("releases/1/data.txt", "found")
    return buffer.getvalue()


def compressed(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("main.py", "x = 1" * 1000)
    return buffer.getvalue()


def lying_about_its_size() -> bytes:
    data = package({"main.py": b"x" * 100_000})
    return data.replace((100_000).to_bytes(4, "little"), (10).to_bytes(4, "little"))


def test_bad_packages_are_refused_with_their_reason(make_worker: MakeWorker) -> None:
    worker = make_worker()
    cases = {
        "nothing": (b"", "not a zip archive"),
        "text": (b"not a zip" * 100, "not a zip archive"),
        "truncated": (GOOD[:-30], "cut off"),
        "damaged": (GOOD.replace(b"PK\1\2", b"PK\1\3"), "its directory is broken"),
        "empty": (package({}), "empty"),
        "parent": (package({"../out.py": ""}), "leads out"),
        "inner parent": (package({"a/../../out.py": ""}), "leads out"),
        "absolute": (package({"/tmp/qf-out.py": ""}), "absolute path"),
        "link": (links(shadow="/etc/shadow"), "link to an absolute path"),
        "file and folder": (package({"a": "x", "a/b": "y"}), "both as a file and as a folder"),
        "long name": (package({"n" * 300: "x"}), "too long"),
        "lzma": (compressed(zipfile.ZIP_LZMA), "compression"),
        "bzip2": (compressed(zipfile.ZIP_BZIP2), "compression"),
        "bomb": (package({"main.py": b"\0" * (5 * MIB)}), "at most 4194304 are allowed"),
        "many": (package({f"f{n}": "" for n in range(201)}), "more than 200 entries"),
        "very many": (package({f"{n}": "" for n in range(30_000)}), "more than 200 entries"),
        "many folders": (package({f"{n}/" + "a/" * 99 + "b": "" for n in range(3)}), "more than 200 entries"),
        "liar": (lying_about_its_size(), ""),
        "body too large": (os.urandom(6 * MIB), None),
    }
    for name, (data, said) in cases.items():
        status, answer = worker.load(data)
        assert status == (413 if said is None else 422), (name, answer)
        assert (said or "") in answer["error"], name
        assert os.listdir(worker.code_dir) == [], name
        assert set(os.listdir(worker.folder)) <= {"code", "program", "python", "scratch"}, name
    assert not Path("/tmp/qf-out.py").exists()
    assert worker.load(GOOD)[0] == 200
    assert worker.execute().output == "fine"


def test_files_are_readable_and_programs_executable(worker: Worker) -> None:
    files = {
        "main.py": "import subprocess\ndef main(): return subprocess.check_output('bin/tool', text=True)\n",
        "bin/tool": "#!/bin/sh\necho tool\n",
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, mode in (("main.py", 0o600), ("bin/tool", 0o700)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, files[name])
        archive.writestr("empty/", "")
    assert worker.load(buffer.getvalue())[0] == 200
    assert worker.execute().output == "tool\n"
    assert (worker.code_dir / "empty").is_dir()


def test_links_in_the_package_work(worker: Worker) -> None:
    assert worker.load(links(link="current", current="releases/1"))[0] == 200
    assert os.readlink(worker.code_dir / "link") == "current"
    assert worker.execute().output == "found"


def test_a_full_disk_is_reported_and_the_worker_can_load_something_smaller(
    make_worker: MakeWorker, small_disk: Path
) -> None:
    worker = make_worker(max_unpacked_size=64 * MIB, code_dir=str(small_disk))
    status, answer = worker.load(package({"main.py": bytes(6 * MIB)}))
    assert (status, os.listdir(small_disk)) == (507, [])
    assert answer["error"] == "The workers' disk is full: No space left on device."
    connection = worker.connect()  # stays open: what it has sent must not keep the disk full
    header = {"target": "t", "entry": "main.main", "memory_size": 32 * MIB, "cpu": 100}
    headers = {"X-Worker-Secret": SECRET, "X-Load": json.dumps(header)}
    connection.request("POST", "/load", package({"main.py": os.urandom(6 * MIB)}), headers)
    response = connection.getresponse()
    assert response.status == 507
    assert b"The workers' disk is full: No space left on device." in response.read()
    assert worker.load(GOOD)[0] == 200
    assert worker.execute().output == "fine"
    connection.close()


def test_unpacking_is_bounded_in_time(make_worker: MakeWorker) -> None:
    worker = make_worker(unpack_timeout_s=0.05, max_unpacked_size=512 * MIB, max_package_files=10_000)
    status, answer = worker.load(package({f"{number}.bin": bytes(MIB) for number in range(300)}))
    assert (status, answer["error"]) == (422, "The package was not unpacked within 0.05 s.")
    assert os.listdir(worker.code_dir) == []


def test_reading_the_directory_is_bounded_in_time(make_worker: MakeWorker) -> None:
    """The last name is bad. A reader that did not look at the clock would report it."""
    worker = make_worker(unpack_timeout_s=0.0001, max_package_files=10_000)
    status, answer = worker.load(package({f"{number}": "" for number in range(3000)} | {"../x": ""}))
    assert (status, answer["error"]) == (422, "The package was not unpacked within 0.0001 s.")


def test_the_supervisor_keeps_no_memory_of_a_package_with_many_entries(make_worker: MakeWorker) -> None:
    """The reader kept 97 MiB of such a package."""

    def resident(data: bytes) -> int:
        worker = make_worker(max_package_files=10_000, max_unpacked_size=16 * MIB, unpack_timeout_s=100)
        assert worker.load(data)[0] == 200
        assert worker.execute().output == "fine"
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    deep = "/".join(f"{part:09}" for part in range(90))
    files: dict[str, str | bytes] = {f"{deep}/{number:09}": "" for number in range(9_000)}
    many = package(files | {"main.py": "def main(): return 'fine'"})
    assert resident(many) - resident(GOOD) < 5 * MIB


def test_a_package_with_many_implied_folders_that_an_earlier_release_took_still_loads(worker: Worker) -> None:
    files = {f"{number}/data.txt": "x" for number in range(99)} | {"main.py": "def main(): return 'fine'\n"}
    assert worker.load(package(files))[0] == 200  # 100 entries, as many as may be, and 99 folders
    assert worker.execute().output == "fine"


def test_a_worker_that_can_not_empty_itself_ends(make_worker: MakeWorker, child_uid: int | None) -> None:
    if child_uid is None:
        pytest.skip("a supervisor with the uid of the test can empty it")
    worker = make_worker()
    (worker.code_dir / "foreign").mkdir()
    (worker.code_dir / "foreign" / "file").touch()
    assert worker.load(b"no zip")[0] == 422
    assert worker.process.wait(20) == 1
