"""Control groups of version 2 with controllers, on a fake: plain folders that get a group's files when they are made.

Hosts with version 1 beside version 2, on which this project is developed, have no such groups. The fake shows which
groups are made, which files are written, and which are passed on. It does not show that the kernel does what they say.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qinling_falcon.orchestrators.process.cgroups import CONTROLLERS, Hierarchy, Subtree, groups_below, hierarchies
from qinling_falcon.orchestrators.process.child_group import Limits
from qinling_falcon.orchestrators.process.handover import Handover
from qinling_falcon.setting_fields import MIB
from runtimes.python3.qinling_worker.memory import OomKills
from runtimes.python3.qinling_worker.memory_group import MemoryGroup

_FILES = {
    "cgroup.procs": "", "cgroup.subtree_control": "", "cgroup.kill": "", "cgroup.freeze": "0", "cgroup.events": "",
    "memory.current": "0", "memory.peak": "0", "memory.max": "max", "memory.swap.max": "max",
    "memory.stat": "anon 5\ninactive_file 1000\nactive_file 200\nslab_reclaimable 30\n",
    "memory.events": "low 0\noom 2\noom_kill 0\n", "pids.max": "max", "cpu.weight": "100",
}  # fmt: skip
WORKER = Limits(memory=200 * MIB, processes=40)
CHILD = Limits(memory=100 * MIB, processes=200)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of the fake. As the kernel does, it fills new folders, and removes them only without groups inside."""
    root = tmp_path / "cgroup"
    make, remove = os.mkdir, os.rmdir

    def make_group(path: str | Path, mode: int = 0o777) -> None:
        make(path, mode)
        if Path(path).is_relative_to(root):
            for name, text in _FILES.items():
                (Path(path) / name).write_text(text)

    def remove_group(path: str | Path) -> None:
        if Path(path).is_relative_to(root) and not any(entry.is_dir() for entry in Path(path).iterdir()):
            for entry in Path(path).iterdir():
                entry.unlink()
        remove(path)

    monkeypatch.setattr(os, "mkdir", make_group)
    monkeypatch.setattr(os, "rmdir", remove_group)
    root.mkdir()
    return root


@pytest.fixture
def subtree(fake: Path) -> Subtree:
    return Subtree("i1", [Hierarchy(fake, 2, frozenset(CONTROLLERS))])


@pytest.fixture
def folder(fake: Path) -> Path:
    """The subtree's folder."""
    return fake / "qinling-falcon-i1"


def test_a_host_with_version_2_alone_has_all_controllers(fake: Path, tmp_path: Path) -> None:
    process = tmp_path / "process"
    process.mkdir()
    (process / "mountinfo").write_text(f"33 31 0:30 / {fake} rw - cgroup2 cgroup2 rw\n")
    (process / "cgroup").write_text("0::/service\n")
    (fake / "service").mkdir()
    (fake / "cgroup.subtree_control").write_text("cpu memory pids")
    assert hierarchies(process) == [Hierarchy(fake, 2, frozenset(CONTROLLERS))]


def test_the_subtree_passes_its_controllers_on(folder: Path, subtree: Subtree) -> None:
    assert (subtree.controllers, subtree.problems, subtree.version) == (set(CONTROLLERS), {}, "v2")
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    subtree.limit_memory(1024 * MIB)
    assert (folder / "memory.max").read_text() == str(1024 * MIB)


def test_the_childs_group_lies_beside_the_workers(folder: Path, subtree: Subtree) -> None:
    """A group with processes can't have groups inside that limit anything."""
    group = subtree.make_group("w1", WORKER, CHILD)
    assert group.child.folders == [folder / "w1.child"]
    for name, limits in (("w1", WORKER), ("w1.child", CHILD)):
        assert (folder / name / "memory.max").read_text() == str(limits.memory)
        assert (folder / name / "memory.swap.max").read_text()[0] == "0"
        assert (folder / name / "pids.max").read_text()[: len(str(limits.processes))] == str(limits.processes)


def test_a_zygotes_group_has_no_limits_and_no_group_beside(folder: Path, subtree: Subtree) -> None:
    group = subtree.make_group("zygote-1", None)
    assert group.child.folders == []
    assert (folder / "zygote-1" / "memory.max").read_text() == "max"


def test_what_a_worker_is_given(folder: Path, subtree: Subtree) -> None:
    group = subtree.make_group("w1", WORKER, CHILD)
    child = folder / "w1.child"
    with Handover(f"@qf-test-{os.getpid()}", group, None, None) as handover:
        handover.configure({})
        config = json.loads(os.read(handover.config_fd, 4096))

        def path_of(descriptor: int) -> Path:
            assert descriptor in handover.descriptors
            return Path(f"/proc/self/fd/{descriptor}").readlink()

        assert {use: path_of(fd) for use, fd in config["memory_fds"].items()} == {
            "usage": child / "memory.current", "peak": child / "memory.peak", "stat": child / "memory.stat",
            "events": child / "memory.events", "limit": child / "memory.max",
        }  # fmt: skip
        assert [path_of(fd) for fd in config["entrances"]] == [child / "cgroup.procs"]
        # The group that counts is the one that is frozen: there is no other one to fork the template into.
        assert path_of(config["freeze_fd"]) == child / "cgroup.freeze"
        assert handover.group_fd is None
        # The function's processes compete for the processors, not those of the supervisor.
        assert (path_of(config["cpu_shares_fd"]), config["cpu_shares_format"]) == (child / "cpu.weight", "weight")
    opened = group.open_folder()
    assert opened is not None
    assert (Path(f"/proc/self/fd/{opened[0]}").readlink(), opened[1]) == (folder / "w1", True)
    os.close(opened[0])
    assert group.open_entrances(version_1_only=True) == []


def test_a_worker_reads_and_limits_its_memory(folder: Path, subtree: Subtree) -> None:
    files = subtree.make_group("w1", WORKER, CHILD).child.open_memory()
    child = folder / "w1.child"
    memory = MemoryGroup(files, [], scratch_size=0)
    (child / "memory.current").write_text("5000")
    memory.set_bare()
    (child / "memory.current").write_text("9000")
    assert memory.used(1) == 4000
    (child / "memory.stat").write_text("anon 5\ninactive_file 1500\nactive_file 200\nslab_reclaimable 30\n")
    assert memory.used(1) == 3500  # the page cache does not count
    memory.set_limit(150 * MIB)
    assert (child / "memory.max").read_text() == str((150 + 16) * MIB)
    kills = OomKills(files["events"])
    kills.forget()
    assert not kills.happened()
    (child / "memory.events").write_text("low 0\noom 2\noom_kill 1\n")
    assert kills.happened()
    for descriptor in files.values():
        os.close(descriptor)


def test_both_groups_are_killed_and_removed(folder: Path, subtree: Subtree) -> None:
    group = subtree.make_group("w1", WORKER, CHILD)
    group.kill()
    for name in ("w1", "w1.child"):
        assert (folder / name / "cgroup.kill").read_text() == "1"
        assert (folder / name / "pids.max").read_text()[0] == "0"
    (folder / "w1" / "cgroup.procs").write_text("11\n")
    (folder / "w1.child" / "cgroup.procs").write_text("12\n13\n")
    assert group.processes() == {11, 12, 13}
    assert group.remove()
    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_groups_of_an_earlier_manager_are_found_with_those_beside(folder: Path, subtree: Subtree) -> None:
    for name in ("w1", "w2"):
        subtree.make_group(name, WORKER, CHILD)
    subtree.make_group("zygote-1", None)
    (folder / "w2.child" / "cgroup.procs").write_text("21\n")
    found = groups_below([folder])
    assert {pid for group in found for pid in group.processes()} == {21}
    assert all(group.remove() for group in found)
    subtree.remove()
    assert not folder.exists()
