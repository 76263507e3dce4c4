"""The package storage: what it takes is durable and whole, what it refuses leaves nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from qinling_falcon.errors import BadRequest, TooLarge, Unavailable
from qinling_falcon.settings import Settings
from qinling_falcon.storage.archive import ArchiveLimits
from qinling_falcon.storage.packages import LocalPackages, PackageMissing
from qinling_falcon.storage.turns import Turns
from tests.storage.archives import make_zip

PACKAGE = make_zip({"main.py": b"def main():\n    return 'Hello, World'\n", "data.bin": os.urandom(3_000_000)})
MD5 = hashlib.md5(PACKAGE).hexdigest()
ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "packages"


@pytest.fixture
def packages(folder: Path) -> LocalPackages:
    return LocalPackages(folder, ArchiveLimits(1000, 10_000_000))


def save(packages: LocalPackages, data: bytes = PACKAGE, limit: int = 10_000_000, md5sum: str | None = None) -> str:
    return packages.save(io.BytesIO(data), limit, md5sum, project_id="p").key


def test_a_package_is_read_back_as_it_was_saved(packages: LocalPackages, folder: Path) -> None:
    stored = packages.save(io.BytesIO(PACKAGE), len(PACKAGE), MD5.upper(), project_id="p")
    assert (stored.md5sum, stored.size) == (MD5, len(PACKAGE))
    assert packages.read(stored.key) == PACKAGE
    unknown = stored.key.translate(str.maketrans("0123456789abcdef", "123456789abcdef0"))
    assert (packages.size(stored.key), packages.size(unknown), packages.size("..")) == (
        len(PACKAGE), None, None,
    )  # fmt: skip
    opened = packages.open(stored.key)
    with contextlib.closing(opened.stream):
        assert (opened.size, opened.stream.read(-1)) == (len(PACKAGE), PACKAGE)
    assert stat.S_IMODE((folder / stored.key).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_packages_of_one_content_are_apart(packages: LocalPackages) -> None:
    first, second = save(packages), save(packages)
    packages.delete(first)
    packages.delete(first)
    assert packages.read(second) == PACKAGE
    with pytest.raises(PackageMissing):
        packages.read(first)
    with pytest.raises(PackageMissing):
        packages.open(first)


@pytest.mark.parametrize("key", ["", "..", "../../etc/passwd", "/etc/passwd", "a" * 32, "\0"])
def test_a_key_leads_to_packages_alone(packages: LocalPackages, key: str) -> None:
    for act in (packages.open, packages.read, packages.delete):
        with pytest.raises(PackageMissing):
            act(key)


@pytest.mark.parametrize("limit", [0, 1, len(PACKAGE) - 1])
def test_a_package_that_is_too_large(packages: LocalPackages, folder: Path, limit: int) -> None:
    with pytest.raises(TooLarge, match=f"{limit} bytes"):
        save(packages, limit=limit)
    assert list(folder.iterdir()) == []


def test_no_more_is_read_than_may_be_stored(packages: LocalPackages) -> None:
    class Endless:
        given = 0

        def read(self, size: int) -> bytes:
            self.given += size
            return bytes(size)

    stream = Endless()
    with pytest.raises(TooLarge):
        packages.save(stream, 5_000_000, project_id="p")
    assert stream.given == 5_000_001


@pytest.mark.parametrize(
    "data", [b"", b"not a zip", make_zip({}), make_zip({"../evil": b""})], ids=["nothing", "text", "empty", "outside"]
)
def test_what_is_refused_leaves_nothing(packages: LocalPackages, folder: Path, data: bytes) -> None:
    with pytest.raises(BadRequest):
        save(packages, data)
    assert list(folder.iterdir()) == []


def test_a_wrong_md5(packages: LocalPackages, folder: Path) -> None:
    with pytest.raises(BadRequest, match=MD5) as caught:
        save(packages, md5sum="0" * 32)
    assert caught.value.errors is not None
    assert list(folder.iterdir()) == []


def test_an_upload_that_waits_too_long_or_is_one_too_many(folder: Path) -> None:
    turns = Turns(width=1, share=1, most_of_project=2, patience_s=0.05)
    packages = LocalPackages(folder, ArchiveLimits(1000, 10_000_000), turns)
    with turns.turn("p"):
        with pytest.raises(Unavailable, match=r"not checked within 0.05 s.*UPLOAD_QUEUE_TIMEOUT_S") as caught:
            save(packages)
        assert caught.value.retry_after_s == 5
    full = Turns(width=2, share=2, most_of_project=1, patience_s=30)
    with full.turn("p"), pytest.raises(Unavailable, match=r"at most 1 at once \(PROJECT_UPLOADS\)") as caught:
        save(LocalPackages(folder, ArchiveLimits(1000, 10_000_000), full))
    assert caught.value.retry_after_s == 5
    assert list(folder.iterdir()) == []
    save(packages)


def test_an_upload_that_breaks_off(packages: LocalPackages, folder: Path) -> None:
    class Broken:
        parts = [PACKAGE[:1000]]

        def read(self, size: int) -> bytes:
            if not self.parts:
                raise ConnectionResetError
            return self.parts.pop()

    with pytest.raises(ConnectionResetError):
        packages.save(Broken(), 10_000_000, project_id="p")
    assert list(folder.iterdir()) == []


def test_a_disk_that_takes_no_more(packages: LocalPackages, folder: Path) -> None:
    folder.rmdir()
    with pytest.raises(Unavailable, match="disk can't take the package"):
        save(packages)


def test_a_full_disk(packages: LocalPackages, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match="No space left"):
        save(packages)


def test_the_sweep_removes_what_nobody_knows(packages: LocalPackages, folder: Path) -> None:
    known, orphan, young = save(packages), save(packages), save(packages)
    (folder / "tmpx.partial").write_bytes(b"an upload that was killed")
    (folder / "README").touch()
    for name in (known, orphan, "tmpx.partial", "README"):
        os.utime(folder / name, (0, 0))
    assert packages.sweep(lambda: {known}, older_than_s=3600) == sorted([orphan, "tmpx.partial"])
    assert {path.name for path in folder.iterdir()} == {known, young, "README"}
    assert packages.sweep(lambda: {known}, older_than_s=3600) == []


def test_the_sweep_knows_what_was_saved_meanwhile(packages: LocalPackages, folder: Path) -> None:
    old = save(packages)
    os.utime(folder / old, (0, 0))
    meanwhile = []

    def known() -> list[str]:
        meanwhile.append(save(packages))
        return [old, *meanwhile]

    assert packages.sweep(known, older_than_s=0) == []
    assert packages.read(meanwhile[0]) == PACKAGE


def test_a_package_outlives_the_process_that_saved_it(tmp_path: Path) -> None:
    script = f"""
import io, os, signal, sys
from pathlib import Path
from qinling_falcon.settings import Settings
from qinling_falcon.storage.packages import LocalPackages
from tests.storage.archives import make_zip
packages = LocalPackages.from_settings(Settings(var_dir=Path({str(tmp_path)!r})))
print(packages.save(io.BytesIO(make_zip({{"main.py": b"x"}})), 1000, project_id="p").key, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    outcome = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=30)
    packages = LocalPackages.from_settings(Settings(var_dir=tmp_path))
    key = outcome.stdout.strip()
    assert hashlib.md5(packages.read(key)).hexdigest() == key.partition("-")[0]


def test_the_hub_goes_on_during_a_large_upload(tmp_path: Path) -> None:
    """The archive is checked only after other greenlets have run: a blocked hub would never get there."""
    script = f"""
from gevent import monkey
monkey.patch_all()
import gevent, io, threading, zipfile
from pathlib import Path
from gevent.event import Event
from qinling_falcon.storage import packages, spool
from qinling_falcon.storage.archive import ArchiveLimits
from tests.storage.archives import make_zip

ran, check = monkey.get_original("_thread", "allocate_lock")(), spool.check_zip
ran.acquire()

def check_later(*args):
    assert ran.acquire(timeout=20), "the hub was blocked"
    check(*args)

spool.check_zip = check_later
store = packages.LocalPackages(Path({str(tmp_path)!r}), ArchiveLimits(10, 10**8))
upload = gevent.spawn(store.save, io.BytesIO(make_zip({{"main.py": bytes(10**7)}})), 10**8, project_id="p")
for _ in range(200):
    gevent.sleep(0.001)
ran.release()
print(upload.get().size)
"""
    outcome = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=60)
    assert outcome.returncode == 0
    assert int(outcome.stdout) > 0


def test_a_refused_package_is_no_noise_in_the_log(tmp_path: Path) -> None:
    script = f"""
from gevent import monkey
monkey.patch_all()
import io
from pathlib import Path
from qinling_falcon.errors import BadRequest
from qinling_falcon.storage.archive import ArchiveLimits
from qinling_falcon.storage.packages import LocalPackages

try:
    LocalPackages(Path({str(tmp_path)!r}), ArchiveLimits(10, 10**8)).save(io.BytesIO(b"no zip"), 10**8, project_id="p")
except BadRequest as error:
    print(error)
"""
    outcome = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (outcome.stdout, outcome.stderr) == ("The package is not a zip archive.\n", "")
