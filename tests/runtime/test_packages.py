"""Packages that are no packages, or worse: each is refused with a clear message, and nothing is written elsewhere."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import pytest

from tests.runtime.client import MIB, Worker, package
from tests.runtime.conftest import MakeWorker

GOOD = package("def main(): return 'fine'\n")


def link(name: str, target: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(name)
        info.create_system = 3
        info.external_attr = 0o120777 << 16
        archive.writestr(info, target)
    return buffer.getvalue()


def twice() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("main.py", "x = 1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("main.py", "x = 2")
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
        "truncated": (GOOD[:-30], "not a"),
        "damaged": (GOOD.replace(b"PK\1\2", b"PK\1\3"), "not a usable zip"),
        "empty": (package({}), "empty"),
        "parent": (package({"../out.py": ""}), "unsafe path"),
        "inner parent": (package({"a/../../out.py": ""}), "unsafe path"),
        "absolute": (package({"/tmp/qf-out.py": ""}), "unsafe path"),
        "backslash": (package({"..\\out.py": ""}), "unsafe path"),
        "link": (link("main.py", "/etc/passwd"), "neither file nor folder"),
        "twice": (twice(), "twice"),
        "file and folder": (package({"a": "x", "a/b": "y"}), "can't be unpacked"),
        "long name": (package({"n" * 300: "x"}), "can't be unpacked"),
        "lzma": (compressed(zipfile.ZIP_LZMA), "compression"),
        "bzip2": (compressed(zipfile.ZIP_BZIP2), "compression"),
        "bomb": (package({"main.py": b"\0" * (5 * MIB)}), "larger than 4194304 bytes"),
        "many": (package({f"f{n}": "" for n in range(101)}), "more than 100 entries"),
        "very many": (package({f"{n}": "" for n in range(30_000)}), "more than 100 entries"),
        "liar": (lying_about_its_size(), ""),
        "body too large": (os.urandom(6 * MIB), None),
    }
    for name, (data, said) in cases.items():
        status, answer = worker.load(data)
        assert status == (413 if said is None else 400), (name, answer)
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
