"""The worker and `unzip` unpack every archive that the upload check accepts, to the same tree.

The archives are made of names, kinds and programs at random, and of good archives that are damaged at random.
"""

from __future__ import annotations

import io
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qinling_falcon.errors import BadRequest, TooLarge
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from runtimes.python3.qinling_worker.package import BadPackage, unpack
from runtimes.python3.qinling_worker.zips.archive import Archive, Limits
from tests.storage.archives import FAT, LINK, NTFS, UNIX, UTF8, Raw, make_zip, raw_zip, unicode_path

LIMITS = ArchiveLimits(max_files=40, max_unpacked_size=100_000, max_depth=8)
UNZIP = shutil.which("unzip")

# A file's content, a link's target, or nothing for a folder; by path.
Tree = dict[str, bytes | str | None]


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A folder for archives, in memory if possible, because the tests unpack thousands."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="qf-zips-", dir=shm if os.access(shm, os.W_OK) else None) as name:
        yield Path(name)


def on_disk(folder: Path) -> Tree:
    found: Tree = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)  # as it is: a Path would leave parts out
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


def as_read(package: Path) -> Tree:
    """The tree that the reader reports for a package."""
    with package.open("rb") as file:
        archive = Archive(file, Limits(LIMITS.max_files, LIMITS.max_unpacked_size, LIMITS.max_depth))
        found: Tree = {folder.path: None for folder in archive.tree.folders()}
        found |= {file.entry.path: b"".join(archive.read(file.entry)) for file in archive.tree.files}
        return found | {link.entry.path: archive.target(link) for link in archive.tree.links}


def agreed(disk: Path, data: bytes) -> Tree | None:
    """Check that the upload check and the worker agree. Returns the tree; None if the upload is refused."""
    with tempfile.TemporaryDirectory(dir=disk) as name:
        package, code = Path(name, "package"), Path(name, "code")
        package.write_bytes(data)
        code.mkdir()
        try:
            check_zip(package, LIMITS)
            accepted = True
        except (BadRequest, TooLarge):
            accepted = False
        with io.FileIO(package) as file:
            try:
                unpack(file, str(code), LIMITS.max_files, LIMITS.max_unpacked_size, 60)
            except BadPackage as error:
                assert not accepted, error
        assert sorted(os.listdir(name)) == ["code", "package"]  # nothing has got out
        if not accepted:
            return None
        tree = on_disk(code)
        assert tree == as_read(package)
        return tree


def unzipped(disk: Path, data: bytes) -> Tree:
    with tempfile.TemporaryDirectory(dir=disk) as name:
        package, code = Path(name, "package.zip"), Path(name, "code")
        package.write_bytes(data)
        done = subprocess.run(
            ["unzip", "-o", "-q", package, "-d", code],
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
        )
        assert done.returncode in (0, 1), done  # 1: it has warned of something, and unpacked everything
        subprocess.run(["chmod", "-R", "u+rX", code], check=True)  # also files of mode 0
        return on_disk(code)


parts = st.sampled_from(
    ["a", "b", "lib", "main.py", ".", "", "..", "grö", "a" * 255, "a" * 256, "...", "a:b", "a\\b", "..\\"]
)
paths = st.lists(parts, min_size=1, max_size=5).map("/".join)
targets = st.lists(st.sampled_from(["a", "b", "lib", "main.py", ".", "", ".."]), min_size=1, max_size=5).map("/".join)


@st.composite
def raw_entries(draw: st.DrawFn) -> Raw:
    system = draw(st.sampled_from([UNIX, UNIX, FAT, NTFS]))
    # Of names that are not ASCII, or that have backslashes, unzip and the rest of the world make different things when
    # they are from Windows.
    names = paths if system == UNIX else paths.filter(lambda path: path.isascii() and "\\" not in path)
    name = draw(names)
    flags = UTF8 if not name.isascii() and draw(st.booleans()) else 0
    # unzip makes a link of Windows a file with the target as its text; Python on Windows writes links like that.
    is_link = system == UNIX and draw(st.integers(0, 3)) == 0
    data = draw(targets).encode() if is_link else b"" if name.endswith("/") else draw(st.binary(max_size=300))
    raw = name.encode()
    extra = unicode_path(raw, draw(names).encode()) if draw(st.integers(0, 9)) == 0 else b""
    mode = LINK if is_link else draw(st.sampled_from([0, 0o100644, 0o100755, 0o106755]))
    return Raw(raw, data, system, mode, flags, extra, draw(st.booleans()) and bool(data), draw(st.booleans()))


archives = st.builds(
    lambda entries, stub, comment, end: raw_zip(
        [Raw(b"zzz.py", b"x"), *entries], stub=stub, comment=comment, zip64_end=end
    ),
    st.lists(raw_entries(), max_size=6),
    st.sampled_from([b"", b"#!/bin/sh\n"]),
    st.sampled_from([b"", b"a comment"]),
    st.sampled_from(["", "", "full", "both"]),
)
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@settings(UNHURRIED, max_examples=400)
@given(data=archives)
def test_upload_and_worker_agree_on_made_up_archives(disk: Path, data: bytes) -> None:
    agreed(disk, data)


@pytest.mark.skipif(UNZIP is None, reason="unzip is not installed")
@settings(UNHURRIED, max_examples=100)
@given(data=archives)
def test_unzip_agrees_on_made_up_archives(disk: Path, data: bytes) -> None:
    tree = agreed(disk, data)
    if tree is not None:
        assert unzipped(disk, data) == tree


GOOD = {
    "plain": make_zip({"main.py": b"x" * 100, "folder/": b"", "folder/b.py": bytes(range(200)), "./c//d.py": b"y"}),
    "zip64": raw_zip([Raw(b"main.py", b"x" * 50, deflated=True, wide=True), Raw(b"a/b", b"y")], zip64_end="full"),
    "windows": raw_zip([Raw(b"a\\b.py", b"x", FAT), Raw(b"c\\", system=FAT), Raw(b"d.py", b"y", FAT)]),
    "links": raw_zip(
        [
            Raw(b"now", b"lib/1", mode=LINK),
            Raw(b"lib/up", b"../main.py", mode=LINK),
            Raw(b"lib/1/mod.py", b"z", mode=0o100755),
            Raw(b"main.py", b"x"),
            Raw(b"__", b"", extra=unicode_path(b"__", "grö".encode())),
        ],
        stub=b"#!/bin/sh\n",
        comment=b"a comment",
    ),
}


def damaged(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        at = dice.randrange(len(changed))
        match dice.randrange(6):
            case 0:
                changed[at] ^= 1 << dice.randrange(8)
            case 1:
                changed[at] = dice.choice(b"\0\xff./\\PK\1\2\5\6")
            case 2:
                del changed[at : at + dice.randrange(1, 9)]
            case 3:
                changed[at:at] = dice.randbytes(dice.randrange(1, 9))
            case 4:
                changed[at : at + 4] = dice.randrange(2 ** dice.choice([4, 8, 16, 32])).to_bytes(4, "little")
            case 5:
                source = dice.randrange(len(changed))
                changed[at : at + 46] = changed[source : source + 46]
    return bytes(changed)


@pytest.mark.parametrize("name", GOOD)
def test_upload_and_worker_agree_on_damaged_archives(disk: Path, name: str) -> None:
    assert agreed(disk, GOOD[name])
    dice = random.Random(name)
    outcomes = [agreed(disk, damaged(GOOD[name], dice)) is not None for _ in range(800)]
    assert set(outcomes) == {True, False}  # some damage is in bytes that no reader reads


@pytest.mark.skipif(UNZIP is None, reason="unzip is not installed")
@pytest.mark.parametrize("name", GOOD)
def test_unzip_agrees(disk: Path, name: str) -> None:
    assert agreed(disk, GOOD[name]) == unzipped(disk, GOOD[name])


@pytest.mark.skipif(shutil.which("zip") is None, reason="zip is not installed")
@pytest.mark.parametrize("options", [["-r"], ["-ry"], ["-rX0"], ["-r", "-fz"]])
def test_what_zip_writes_is_read(disk: Path, options: list[str]) -> None:
    with tempfile.TemporaryDirectory(dir=disk) as name:
        source, package = Path(name, "source"), Path(name, "package.zip")
        (source / "pack age" / "größe").mkdir(parents=True)
        (source / "pack age" / "größe" / "数据.txt").write_bytes(b"data" * 100)
        (source / "main.py").write_bytes(b"x")
        (source / "link.py").symlink_to("main.py")
        subprocess.run(["zip", "-q", *options, package, "."], cwd=source, check=True, capture_output=True, timeout=30)
        tree = agreed(disk, package.read_bytes())
        expected = on_disk(source)
        if "y" not in options[0]:
            expected["link.py"] = b"x"
        assert tree == expected
