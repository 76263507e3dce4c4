"""Symbolic links in packages: they stay inside the package."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from qinling_falcon.errors import BadRequest
from qinling_falcon.storage.archive import ArchiveLimits, check_zip
from runtimes.python3.qinling_worker.zips.archive import Archive, Limits
from tests.storage.archives import LINK, MAIN, Raw, raw_zip
from tests.storage.conftest import Check


def linked(*links: tuple[str, str], more: tuple[Raw, ...] = ()) -> bytes:
    entries = [Raw(name.encode(), target.encode(), mode=LINK) for name, target in links]
    return raw_zip([*entries, Raw(b"lib/1/mod.py", b"x"), MAIN, *more])


@pytest.mark.parametrize(
    "links",
    [
        [("a", "main.py")],
        [("a", "./lib//1/")],
        [("lib/current", "1")],
        [("lib/1/up", "../../main.py")],
        [("lib/top", "..")],
        [("a", "b"), ("b", "c"), ("c", "lib"), ("d", "c/1/mod.py")],
        [("a", "not/there")],
        [("a", "lib/1/mod.py/../x")],
        [("lib/1/in", "../.."), ("out", "lib/1/in/lib/1/in/main.py")],
    ],
)
def test_links_that_stay_inside_are_kept(check: Check, links: list[tuple[str, str]]) -> None:
    data = linked(*links)
    check(data)
    archive = Archive(io.BytesIO(data), Limits(100, 1_000_000))
    assert sorted((link.entry.path, archive.target(link)) for link in archive.tree.links) == sorted(links)


@pytest.mark.parametrize(
    ("links", "reason"),
    [
        ([("a", "/etc/passwd")], "absolute"),
        ([("a", "..")], "leads out"),
        ([("lib/a", "../../main.py")], "leads out"),
        ([("a", "lib/../../b")], "leads out"),
        ([("a", "not/there/../../..")], "leads out"),
        # By its text `b/..` is the package; but `b` leads one folder up, so that it is the folder above the package.
        ([("lib/b", ".."), ("a", "lib/b/..")], "leads out"),
        ([("lib/1/x", "../.."), ("lib/1/y", "x/..")], "leads out"),
        ([("a", "b"), ("b", "a")], "circle"),
        ([("a", "a")], "circle"),
        ([("a", "lib/x"), ("lib/x", "../a/..")], "circle"),
        ([("a", "")], "not a path"),
        ([("a", "x\0y")], "not a path"),
        ([("a", "b" * 1001)], "too long"),
        ([(f"l{number}", f"l{number + 1}") for number in reversed(range(41))], "more than 40"),
        ([(f"l{number}", f"l{number + 1}") for number in range(90)], "more than 40"),
        ([("lib/top", ".."), ("a", "lib/top/" * 40 + "main.py")], "more than 40"),
        ([("a/", "main.py")], "both a file and a folder"),
    ],
)
def test_links_that_lead_elsewhere_are_refused(check: Check, links: list[tuple[str, str]], reason: str) -> None:
    with pytest.raises(BadRequest, match=reason):
        check(linked(*links))


@pytest.mark.parametrize("name", [b"a/evil.py", b"a/", b"a"])
def test_nothing_lies_below_a_link(check: Check, name: bytes) -> None:
    for data in (linked(("a", "lib"), more=(Raw(name),)), raw_zip([Raw(name), MAIN, Raw(b"a", b"lib", mode=LINK)])):
        with pytest.raises(BadRequest, match=r"both as a file and as a folder|twice"):
            check(data)


def test_a_links_target_is_held_against_its_checksum(check: Check) -> None:
    with pytest.raises(BadRequest, match="not what it declares"):
        check(linked(("a", "not/there")).replace(b"not/there", b"not/three"))


def test_a_package_of_links_alone_is_empty(check: Check) -> None:
    with pytest.raises(BadRequest, match="empty"):
        check(raw_zip([Raw(b"a", b"b", mode=LINK)]))


def test_many_links_through_each_other_take_little_time() -> None:
    links = [Raw(f"l{number}".encode(), b"./" * 490 + b"deep/main.py", mode=LINK) for number in range(5000)]
    chain = [Raw(f"c{number}".encode(), f"c{number + 1}".encode(), mode=LINK) for number in range(39)]
    data = raw_zip([*links, *chain, Raw(b"c39", b"deep", mode=LINK), Raw(b"deep/main.py")])
    began = time.process_time()
    archive = Archive(io.BytesIO(data), Limits(10_000, 10_000_000))
    assert len(list(archive.tree.links)) == 5040
    assert time.process_time() - began < 20


def test_a_long_chain_of_links_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "package"
    links = [Raw(f"l{number}".encode(), f"l{number + 1}".encode(), mode=LINK) for number in range(5000)]
    path.write_bytes(raw_zip([MAIN, *links]))
    with pytest.raises(BadRequest, match="more than 40"):
        check_zip(path, ArchiveLimits(10_000, 1_000_000))
